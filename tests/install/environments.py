"""Empty environments with one torch each."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
# What the tests of the operators need beside torch, in the versions of requirements.txt.
_TEST_PACKAGES = ("numpy", "pytest", "pytest-benchmark", "pytest-xdist", "hypothesis")
_BUILD_PACKAGES = ("setuptools", "ninja")


class StepError(Exception):
    """A command that ended otherwise than expected; its last lines."""


@dataclass
class Environment:
    """A virtual environment."""

    folder: Path
    interpreter: str

    @property
    def python(self) -> str:
        return str(self.folder / "bin" / "python")

    def make(self, torch: str) -> None:
        """Makes it anew, with this torch and all that this torch asks for.

        Raises:
            StepError: if a package cannot be had.
        """
        self.remove()
        run([self.interpreter, "-m", "venv", str(self.folder)], timeout=120)
        self.pip(f"torch=={torch}", timeout=3000)
        self.pip(*_pinned(_TEST_PACKAGES + _BUILD_PACKAGES))

    def remove(self) -> None:
        """Deletes it: a build of torch for CUDA takes six gigabytes."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def pip(self, *arguments: str, timeout: float = 600) -> None:
        """Installs."""
        self.call("-m", "pip", "install", "--quiet", *arguments, timeout=timeout)

    def call(self, *arguments: str, folder: Path = ROOT, timeout: float = 900, **variables: str) -> str:
        """Runs the environment's Python; returns what it printed."""
        return run([self.python, *arguments], folder=folder, timeout=timeout, **variables).stdout

    def versions(self) -> tuple[str, str]:
        """The versions of torch and Python."""
        code = "import platform, torch; print(torch.__version__, platform.python_version())"
        torch, python = self.call("-c", code).split()
        return torch, python


def run(
    command: Sequence[str], *, folder: Path = ROOT, timeout: float, succeeds: bool | None = True, **variables: str
) -> subprocess.CompletedProcess[str]:
    """Runs a command, which is to succeed, to fail, or to do either (None).

    Raises:
        StepError: if it does not end, or ends otherwise than expected.
    """
    try:
        result = subprocess.run(
            command,
            cwd=folder,
            env={**os.environ, **variables},
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise StepError(f"no end after {timeout:g} s\n{' '.join(command)}") from None
    if succeeds is not None and (result.returncode == 0) != succeeds:
        last = (result.stdout + result.stderr).strip().splitlines()[-15:]
        raise StepError("\n".join([f"exit code {result.returncode}", " ".join(command), *last]))
    return result


def _pinned(names: Sequence[str]) -> list[str]:
    """The lines of requirements.txt for these packages, as far as this Python has the versions."""
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    pins = {re.split(r"[=<>;]", line)[0]: line for line in lines}
    return [pins[name] for name in names]


def interpreter_of(version: str) -> str | None:
    """A Python of this release on this machine, ``3.12`` say; None if there is none."""
    if sys.version.startswith(f"{version}."):
        return sys.executable
    candidates = [shutil.which(f"python{version}"), *_pyenv(version)]
    for candidate in filter(None, candidates):
        found = subprocess.run([candidate, "--version"], capture_output=True, text=True, check=False)
        if found.stdout.startswith(f"Python {version}."):
            return candidate
    return None


def _pyenv(version: str) -> list[str]:
    root = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    return [str(path) for path in sorted(root.glob(f"versions/{version}.*/bin/python"))]
