"""The compiled operators in a process that has torch's C++ library and no Python."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from torch.utils.cpp_extension import include_paths, library_paths

from tests.support.inputs import gaussian_tokens
from tokenprune_kernels.backends import native


def test_a_program_without_python_selects_the_same(tmp_path):
    compiler = shutil.which("c++") or pytest.skip("needs a C++ compiler")
    if os.environ.get("LD_PRELOAD"):
        pytest.skip("a preloaded sanitizer runtime would run beside that of the program")
    program = tmp_path / "select"
    (libraries,) = library_paths()
    target = "-DTORCH_TARGET_VERSION=0x020b000000000000"
    command = [compiler, "-std=c++20", target, *(f"-isystem{path}" for path in include_paths())]
    command += [str(Path(__file__).parent / "select_without_python.cpp"), "-o", str(program)]
    command += [f"-L{libraries}", f"-Wl,-rpath,{libraries}", "-ltorch_cpu", "-lc10", "-ldl"]
    subprocess.run(command, check=True, timeout=300)

    x = gaussian_tokens(300, 40)
    indices, scores = torch.ops.tokenprune_native.divprune.scores(x, 60)
    result = subprocess.run(
        [str(program), native.build_info()["file"], "300", "40", "60"],
        input=x.numpy().tobytes(),
        capture_output=True,
        timeout=60,
        check=False,
    )
    found = result.stdout.decode().split()
    assert found[-1] == "refused", result.stderr
    assert list(map(int, found[:60])) == indices.tolist()
    assert list(map(float.fromhex, found[60:120])) == scores.tolist()
    assert len(found) == 121


def test_the_extension_needs_no_python_and_only_the_stable_interface_of_torch():
    if shutil.which("nm") is None:
        pytest.skip("needs nm")
    listing = subprocess.run(
        ["nm", "-D", "--undefined-only", "-C", native.build_info()["file"]], capture_output=True, text=True, check=True
    )
    names = [line.split(maxsplit=1)[1] for line in listing.stdout.splitlines()]
    torch_functions = [name for name in names if name.startswith(("torch_", "aoti_torch_"))]
    assert "torch_call_dispatcher" in torch_functions
    for name in names:
        assert not name.startswith(("Py", "_Py"))
        assert not any(part in name for part in ("c10::", "at::", "torch::"))


def test_the_stable_functions_are_those_of_the_oldest_torch():
    """A function that a newer torch added would be missing beside the oldest one: the headers list them by release."""
    if shutil.which("nm") is None:
        pytest.skip("needs nm")
    folder = Path(torch.__file__).parent / "include" / "torch" / "csrc" / "stable" / "c" / "shim.h"
    newer = folder.read_text().partition("TORCH_FEATURE_VERSION >= TORCH_VERSION_2_12_0")[2]
    assert "torch_library_def_with_tags" in newer
    listing = subprocess.run(
        ["nm", "-D", "--undefined-only", native.build_info()["file"]], capture_output=True, text=True, check=True
    )
    for line in listing.stdout.splitlines():
        assert f"{line.split()[-1]}(" not in newer
