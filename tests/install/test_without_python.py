"""The compiled operators in a process that has torch's C++ library and no Python."""

import ctypes.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.utils.cpp_extension import include_paths, library_paths

from tests.support.inputs import gaussian_tokens
from tests.support.subprocess import python
from tokenprune_kernels import torch_release
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


def needed_libraries(path):
    listing = subprocess.run(["readelf", "-d", path], capture_output=True, text=True, check=True).stdout
    return [line.rpartition("[")[2].rstrip("]") for line in listing.splitlines() if "(NEEDED)" in line]


def test_the_extension_brings_no_runtime_of_its_own():
    """OpenMP, Python and torch's CUDA side are those of the process, or not there."""
    if shutil.which("readelf") is None:
        pytest.skip("needs readelf")
    if os.environ.get("LD_PRELOAD"):
        pytest.skip("a sanitized build needs the sanitizer's runtime too")
    libraries = needed_libraries(native.build_info()["file"])
    of_torch = {name for name in libraries if name.startswith(("libtorch", "libc10", "libcu"))}
    of_system = ("libstdc++.", "libgcc_s.", "libm.", "libc.", "libpthread.", "ld-linux")
    assert of_torch == {"libtorch_cpu.so"}
    assert [name for name in libraries if not name.startswith(of_system)] == ["libtorch_cpu.so"]


LOADED = '{line.split()[-1] for line in open("/proc/self/maps") if "libgomp" in line}'


@pytest.fixture(scope="module")
def system_openmp():
    """The file of the system's OpenMP runtime."""
    name = ctypes.util.find_library("gomp") or pytest.skip("needs the system's libgomp")
    return python(f"import ctypes; ctypes.CDLL({name!r}); print(*{LOADED})").stdout.strip()


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads the memory map")
@pytest.mark.parametrize("first", ["system", "torch"])
def test_a_second_openmp_runtime_beside_that_of_torch_changes_nothing(system_openmp, first):
    """One that is loaded before torch serves torch as well; one that is loaded after it, by its path, is a second."""
    select = """
torch.set_num_threads(2)
x = torch.randn(3, 700, 64, generator=torch.Generator().manual_seed(0))
indices, scores = torch.ops.tokenprune.divprune.scores(x, 100)
print(torch.get_num_threads(), indices.tolist(), scores.tolist())
"""
    ours, second = "import torch, tokenprune_kernels\n", f"import ctypes; openmp = ctypes.CDLL({system_openmp!r})\n"
    asked = "openmp.omp_set_num_threads(7)\nassert openmp.omp_get_max_threads() == 7\n" if first == "torch" else ""
    code = (ours + second if first == "torch" else second + ours) + asked + select
    result = python(code + f"print(len({LOADED}))")
    *found, runtimes = result.stdout.splitlines()
    assert found == python(ours + select).stdout.splitlines(), result.stderr
    assert found
    torch_has_its_own = (Path(library_paths()[0]) / "libgomp.so.1").exists()
    assert runtimes == ("2" if first == "torch" and torch_has_its_own else "1")


def test_the_stable_functions_are_those_of_the_oldest_torch():
    """A function that a newer torch added would be missing beside the oldest one: the headers list them by release."""
    if shutil.which("nm") is None:
        pytest.skip("needs nm")
    if not torch_release.is_at_least(torch.__version__, "2.12"):
        pytest.skip("needs the headers of a newer torch than the oldest one")
    folder = Path(torch.__file__).parent / "include" / "torch" / "csrc" / "stable" / "c" / "shim.h"
    newer = folder.read_text().partition("TORCH_FEATURE_VERSION >= TORCH_VERSION_2_12_0")[2]
    assert "torch_library_def_with_tags" in newer
    listing = subprocess.run(
        ["nm", "-D", "--undefined-only", native.build_info()["file"]], capture_output=True, text=True, check=True
    )
    for line in listing.stdout.splitlines():
        assert f"{line.split()[-1]}(" not in newer
