"""The ways to install the package, each tried in an environment that has torch."""

from __future__ import annotations

import functools
import re
import shutil
import sys
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.install.environments import ROOT, Environment, StepError, run

# The tests that compare the compiled operators with the oracle, on many inputs and every instruction set, and what
# depends on how torch and Python pass errors, signals and registrations on.
_KERNEL_TESTS = (
    *(
        f"tests/operators/test_{name}.py"
        for name in ("selection", "varlen", "dpp", "edge_rows", "properties", "errors")
    ),
    *(f"tests/native/test_{name}.py" for name in ("block_sizes", "isa", "interrupt")),
    *(f"tests/install/test_{name}.py" for name in ("without_python", "import_again", "wheel")),
)
_QUICK_TESTS = ("tests/native/test_isa.py", "tests/install/test_without_python.py")
_MARKS = "not slow and not gpu and not interpret"
_PREFIX = "tokenprune_kernels: "
KERNELS = "kernels==0.17.2"


@dataclass(frozen=True)
class Source:
    """What is installed, made once and the same file beside every torch; `quick` asks for few tests of it."""

    wheel: Path
    archive: Path
    quick: bool = False

    def unpacked(self, folder: Path) -> Path:
        """The source distribution, unpacked anew."""
        shutil.rmtree(folder, ignore_errors=True)
        with tarfile.open(self.archive) as files:
            files.extractall(folder, filter="data")
        (tree,) = folder.iterdir()
        return tree


def wheel(environment: Environment, source: Source, work: Path) -> str:
    """Installs the wheel and runs the kernel tests, or the few that every build has to pass."""
    environment.pip("--no-deps", "--no-index", str(source.wheel))
    return _tested(environment, work, _QUICK_TESTS if source.quick else _KERNEL_TESTS)


def sdist(environment: Environment, source: Source, work: Path) -> str:
    """Builds with the torch of the environment."""
    tree = source.unpacked(work / "sdist")
    environment.pip("--no-deps", "--no-build-isolation", str(tree), timeout=1800)
    return _tested(environment, work, _QUICK_TESTS)


def editable(environment: Environment, source: Source, work: Path) -> str:
    """Builds in place with the torch of the environment, in the folder that `sdist` has compiled in."""
    (tree,) = (work / "sdist").iterdir()
    environment.pip("--no-deps", "--no-build-isolation", "-e", str(tree), timeout=1800)
    return _tested(environment, work, _QUICK_TESTS, package=tree / "tokenprune_kernels")


@functools.cache
def kernel_layout() -> Path:
    """The layout of Hugging Face kernels, made once and the same beside every torch."""
    layout = ROOT / "build" / "kernel"
    run([sys.executable, "-m", "tests.install.kernel_layout", str(layout)], timeout=1800)
    return layout


def kernel(environment: Environment, source: Source, work: Path) -> str:
    """Loads the layout of Hugging Face kernels, without the Hub, beside the wheel."""
    kernel_layout()
    environment.pip("--no-deps", "--no-index", str(source.wheel))
    environment.pip(KERNELS)
    return _tested(environment, work, ("tests/install/test_kernel_layout.py",), HF_HUB_OFFLINE="1")


def isolated(environment: Environment, source: Source, work: Path) -> str:
    """Has pip isolate the build from the environment's torch."""
    return _refused(environment, source, "--no-cache-dir")


def no_compiler(environment: Environment, source: Source, work: Path) -> str:
    """Builds where no program but the environment's is found."""
    found = str(environment.folder / "bin")
    return _refused(environment, source, "--no-build-isolation", PATH=found, CXX="c++")


PATHS: dict[str, tuple[str, Callable[[Environment, Source, Path], str]]] = {
    "wheel": ("the wheel", wheel),
    "sdist": ("source distribution, `--no-build-isolation`", sdist),
    "editable": ("`pip install --no-build-isolation -e .`", editable),
    "kernel": ("`kernels.get_local_kernel`, CPU", kernel),
    "isolated": ("source distribution, isolated build", isolated),
    "no_compiler": ("source distribution, no compiler", no_compiler),
}


def _tested(
    environment: Environment, work: Path, tests: tuple[str, ...], package: Path | None = None, **variables: str
) -> str:
    """Imports the package, asks for `info`, and runs tests in a copy of them that has no package beside it."""
    copy = work / "tests"
    shutil.rmtree(copy, ignore_errors=True)
    for name in ("tests", "python_ref", "bench"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    if (layout := ROOT / "build" / "kernel").exists():
        shutil.copytree(layout, copy / "build" / "kernel")
    shutil.copytree(ROOT / "dist", copy / "dist")
    shutil.copy(ROOT / "pyproject.toml", copy)
    expected = package or next(environment.folder.glob("lib/python*/site-packages")) / "tokenprune_kernels"
    try:
        info = environment.call("-m", "tokenprune_kernels", "info", folder=copy)
        for line in (f"location: {expected}", "  cpu tensors: runs"):
            if line not in info.splitlines():
                raise StepError(f"info: expected the line {line!r}, got\n{info}")
        command = [environment.python, "-m", "pytest", "-q", "-n", "2", "-p", "no:cacheprovider", "-m", _MARKS, *tests]
        output = run(command, folder=copy, timeout=2400, succeeds=None, OMP_NUM_THREADS="1", **variables).stdout
    finally:
        environment.call("-m", "pip", "uninstall", "--quiet", "--yes", "tokenprune_kernels")
    counts = {outcome: int(count) for count, outcome in re.findall(r"(\d+) (passed|failed|errors?)\b", output)}
    passed = counts.pop("passed", 0)
    if counts or not passed:
        raise StepError(f"{sum(counts.values()):,} of {passed + sum(counts.values()):,} tests\n{output[-5000:]}")
    return f"{passed:,} tests"


def _refused(environment: Environment, source: Source, *options: str, **variables: str) -> str:
    """The one line with which a build ends that cannot work."""
    command = [environment.python, "-m", "pip", "wheel", "--no-deps", "--wheel-dir", str(environment.folder / "none")]
    result = run([*command, *options, str(source.archive)], timeout=600, succeeds=False, **variables)
    lines = [line.strip() for line in (result.stdout + result.stderr).splitlines()]
    said = sorted({line for line in lines if line.startswith(_PREFIX)})
    if len(said) != 1:
        raise StepError("\n".join(["pip wheel: expected one line of the package, got", *lines[-15:]]))
    return said[0].removeprefix(_PREFIX)
