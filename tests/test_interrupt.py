"""Ctrl-C in the middle of a long selection."""

import subprocess
import sys

import pytest

# Each would take minutes.
LONG = {"rows of one item": "(120_000, 1_024)", "items": "(200, 6_000, 1_024)"}

CODE = """
import os, signal, threading, torch, tokenprune_kernels
x = torch.randn({shape}[-2:]).expand({shape})
threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT)).start()
try:
    torch.ops.tokenprune.divprune(x, 5_000)
except KeyboardInterrupt:
    print(torch.ops.tokenprune.divprune(x[..., :9, :], 2).shape[-1], "picks after the interruption")
"""


@pytest.mark.parametrize("shape", LONG)
def test_a_long_selection_can_be_interrupted(shape):
    code = CODE.format(shape=LONG[shape])
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert result.stdout.strip() == "2 picks after the interruption", result.stderr
