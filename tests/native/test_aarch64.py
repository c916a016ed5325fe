"""Kernels and selections for aarch64, under qemu-user: the bits of the portable path on this machine."""

import shutil
import subprocess
from pathlib import Path

import pytest
import torch

from tests.support.inputs import METHODS, arguments, gaussian_tokens, ops, random_weight
from tests.support.isa import instruction_set

ROOT = Path(__file__).parents[2]
SOURCES = ROOT / "csrc" / "cpu"
COMPILER, EMULATOR = "aarch64-linux-gnu-g++", "qemu-aarch64"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not SOURCES.exists(), reason="needs the source tree"),
    pytest.mark.skipif(
        not (shutil.which(COMPILER) and shutil.which(EMULATOR)), reason=f"needs {COMPILER} and {EMULATOR}"
    ),
]


def compile_for_aarch64(program, *files):
    command = [COMPILER, "-std=c++20", "-O2", "-ffp-contract=off", "-fno-math-errno", "-static", "-pthread"]
    command += [f"-I{SOURCES}", f"-I{SOURCES / 'threads'}", *map(str, files), "-o", str(program)]
    subprocess.run(command, check=True, timeout=600)
    return program


def emulated(program, *arguments, given=b""):
    return subprocess.run(
        [EMULATOR, str(program), *map(str, arguments)], input=given, capture_output=True, timeout=600, check=False
    )


@pytest.fixture(scope="module")
def select(tmp_path_factory):
    files = [path for path in SOURCES.rglob("*.cpp") if path.parent.name != "operators"]
    program = compile_for_aarch64(
        tmp_path_factory.mktemp("aarch64") / "select", Path(__file__).parent / "select_without_torch.cpp", *files
    )

    def run(method, x, weight, k, threads):
        given = x.view(torch.uint8).numpy().tobytes() + weight.numpy().tobytes()
        dtype = str(x.dtype).removeprefix("torch.")
        result = emulated(program, method, dtype, *x.shape, k, threads, given=given)
        assert result.returncode == 0, result.stderr
        *found, isa = result.stdout.decode().split()
        assert isa == "portable"
        return list(map(int, found[:k])), list(map(float.fromhex, found[k:]))

    return run


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("method", METHODS)
def test_selections_have_the_bits_of_the_portable_path(select, method, dtype, threads):
    x = torch.cat([gaussian_tokens(300, 133), gaussian_tokens(40, 133).repeat(3, 1)]).to(dtype)
    x[7, 3] = float("nan")
    x[11] = 0.0
    weight = random_weight(len(x)).float()
    with instruction_set("portable"):
        indices, scores = getattr(ops, method).scores(*arguments(method, x, weight, 120))
    assert select(method, x, weight, 120, threads) == (indices.tolist(), scores.tolist())


def test_the_thread_team(tmp_path):
    program = compile_for_aarch64(
        tmp_path / "stress",
        Path(__file__).parent / "thread_team_stress.cpp",
        SOURCES / "threads" / "thread_team.cpp",
        SOURCES / "threads" / "processors.cpp",
    )
    result = emulated(program, tmp_path / "root", "stay")
    assert (result.stdout, result.returncode) == (b"done\n", 0), result.stderr[-3000:]
