"""An operator that is called inside a parallel region of the OpenMP runtime that torch runs on."""

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support.subprocess import python

REGION = """
void in_region(void (*call)(void)) {
#pragma omp parallel num_threads(2)
#pragma omp single
  call();
}
"""


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="counts threads in /proc")
def test_a_call_in_a_parallel_region_makes_no_threads(tmp_path):
    compiler = shutil.which("cc") or pytest.skip("needs a C compiler")
    source, library = tmp_path / "region.c", tmp_path / "region.so"
    source.write_text(REGION)
    built = subprocess.run([compiler, "-fopenmp", "-shared", "-fPIC", str(source), "-o", str(library)], check=False)
    if built.returncode != 0:
        pytest.skip("the compiler has no OpenMP")
    result = python(
        f"""
import ctypes, os, torch, tokenprune_kernels
region = ctypes.CDLL({str(library)!r})
torch.ops.tokenprune_native._force_threads(3)
x = torch.randn(800, 900)
found = []
def select():
    before = len(os.listdir("/proc/self/task"))
    found.append(torch.ops.tokenprune.divprune(x, 200))
    print(len(os.listdir("/proc/self/task")) - before)
region.in_region(ctypes.CFUNCTYPE(None)(select))
select()
print(torch.equal(*found))
"""
    )
    assert result.stdout.split() == ["0", "2", "True"], result.stderr
