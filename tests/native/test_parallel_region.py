"""Operators beside the threads of the OpenMP runtime that torch runs on."""

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
torch.set_num_threads(3)
torch.ops.tokenprune_native._force_threads(3)
x = torch.randn(800, 900)
found, new = [], []
def select():
    before = len(os.listdir("/proc/self/task"))
    found.append(torch.ops.tokenprune.divprune(x, 200))
    new.append(len(os.listdir("/proc/self/task")) - before)
region.in_region(ctypes.CFUNCTYPE(None)(select))
select()
print(new[0], new[1] > 0, torch.equal(*found))
"""
    )
    assert result.stdout.split() == ["0", "True", "True"], result.stderr


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="counts threads in /proc")
def test_a_pool_with_more_threads_than_processors_is_not_borrowed():
    code = """
import os
import torch
import tokenprune_kernels

processors = len(os.sched_getaffinity(0))
torch.set_num_threads(40 + processors)
x = torch.randn(600, 1_000)
before = len(os.listdir("/proc/self/task"))
for _ in range(3):
    torch.ops.tokenprune.divprune(x, 60)
print(len(os.listdir("/proc/self/task")) - before - processors)
"""
    result = python(code)
    assert result.returncode == 0, result.stderr
    assert int(result.stdout) < 30
