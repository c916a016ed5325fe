"""What the machine has: versions, the device, and what Triton needs to launch anything."""

from __future__ import annotations

import functools
import importlib.util
import os
import platform
import shutil
import subprocess
import sysconfig
from importlib import metadata
from pathlib import Path
from typing import Any

PACKAGES = ("torch", "triton", "transformers", "pytest", "hypothesis", "numpy", "torch-quickfps-cu130")
QUERIED = ("name", "driver_version", "compute_cap", "clocks.sm", "clocks.mem", "clocks.max.sm", "memory.used")


def versions() -> dict[str, str]:
    """Of Python and the packages that are there."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "missing"
    return found


def compiler() -> str:
    """What is missing for Triton's launchers, which are C extensions; empty when nothing is."""
    compilers = [os.environ["CC"]] if os.environ.get("CC") else ["gcc", "clang"]
    missing = [] if any(map(shutil.which, compilers)) else [f"a C compiler ({' or '.join(compilers)})"]
    # Debian's own scheme names another folder than the one with the header.
    scheme = sysconfig.get_default_scheme().replace("posix_local", "posix_prefix")
    if not (Path(sysconfig.get_paths(scheme)["include"]) / "Python.h").exists():
        missing.append("Python.h")
    if importlib.util.find_spec("triton") is None:
        missing.append("triton")
    return f"expected {' and '.join(missing)}, got none" if missing else ""


@functools.cache
def device() -> dict[str, Any]:
    """What the driver's tool says about the first device."""
    command = ["nvidia-smi", f"--query-gpu={','.join(QUERIED)}", "--format=csv,noheader,nounits"]
    answer = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout
    return dict(zip(QUERIED, (value.strip() for value in answer.splitlines()[0].split(",")), strict=False))


def architecture() -> int:
    """The first device's compute capability, such as 90; that of an H100 where the driver's tool says nothing."""
    try:
        return round(10 * float(device()["compute_cap"]))
    except (OSError, subprocess.SubprocessError, LookupError, ValueError):
        return 90
