"""The search for similar signatures. No result of an operator depends on it, so it has a program of its own."""

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support.isa import native_build

SOURCES = Path(__file__).parents[2] / "csrc" / "cpu"


@pytest.mark.slow  # compiles the kernels
@pytest.mark.skipif(not SOURCES.exists(), reason="needs the source tree")
def test_every_instruction_set_finds_the_most_alike(tmp_path):
    compiler = shutil.which("c++") or pytest.skip("needs a C++ compiler")
    program = tmp_path / "most_alike"
    files = [Path(__file__).parent / "most_alike_signatures.cpp", *(SOURCES / "kernels").glob("*.cpp")]
    command = [compiler, "-std=c++20", "-O1", f"-I{SOURCES}", *map(str, files), "-o", str(program)]
    subprocess.run(command, check=True, timeout=600)
    result = subprocess.run([str(program)], capture_output=True, text=True, timeout=300, check=False)
    assert (result.stdout.split(), result.returncode) == (native_build()["supported_isas"], 0)
