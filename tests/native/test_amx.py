"""The AMX kernels, on a processor that has AMX or in an emulator of its instructions (tests/support/amx_emulator.c).

Not under the sanitizers, which cannot intercept the signal handler of a library that is preloaded.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import tokenprune_kernels

TESTS = Path(__file__).parent.parent
ISAS = tokenprune_kernels.build_info()["backends"]["native"]["supported_isas"]


@pytest.fixture(scope="session")
def amx(tmp_path_factory):
    """The environment of a process that runs the AMX kernels."""
    environment = {**os.environ, "TOKENPRUNE_CPU_ISA": "amx"}
    if "amx" in ISAS:
        return environment
    if "avx512_bf16" not in ISAS:
        pytest.skip("the AMX kernels need AVX-512 BF16 too, and that is not emulated")
    compiler = shutil.which("cc") or pytest.skip("needs a C compiler to build the emulator")
    emulator = tmp_path_factory.mktemp("emulator") / "amx_emulator.so"
    source = TESTS / "support" / "amx_emulator.c"
    subprocess.run([compiler, "-O2", "-shared", "-fPIC", str(source), "-o", str(emulator)], check=True, timeout=120)
    return environment | {"LD_PRELOAD": str(emulator)}


def run(environment, *arguments):
    # faulthandler would take the place of the emulator's signal handler.
    result = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:faulthandler", *arguments],
        env=environment,
        cwd=TESTS.parent,
        capture_output=True,
        text=True,
        timeout=1_200,
        check=False,
    )
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]


def test_the_cases(amx):
    run(amx, "tests/native/amx_cases.py")


@pytest.mark.slow
def test_the_kernel_tests(amx):
    files = ("selection", "edge_rows", "varlen", "properties")
    run(amx, "-m", "not slow and not gpu and not interpret", *(f"tests/operators/test_{file}.py" for file in files))
