"""Peaks of memory, and what an operator takes on the CPU beside its tokens.

The latter is measured in a process of its own: ``python -m bench.memory METHOD DTYPE`` prints the megabytes (10^6) by
which the resident set's peak during a call exceeds the resident set before it. Needs Linux, whose peak can be set back.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

import torch

from bench.cases import LAM
from bench.run_with_timeout import run_with_timeout
from tokenprune_kernels import importance
from tokenprune_kernels.methods import METHODS

PROCESS = Path("/proc/self")
COUNT, DEPTH, K = 16_384, 3_584, 1_638
LONGEST_RUN = 90.0
SIMILARITIES_MEGABYTES = 4e-6 * COUNT**2


def reset_peak(device: str) -> None:
    """Forgets what was in use before."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    else:
        # 5 sets the high water mark back to what is resident now (proc(5)).
        (PROCESS / "clear_refs").write_text("5")


def peak_bytes(device: str) -> int:
    """The most in use since then: of the device's allocator, or of this process."""
    return torch.cuda.max_memory_allocated() if device == "cuda" else _resident_bytes("VmHWM")


def _resident_bytes(name: str) -> int:
    found = re.search(rf"^{name}:\s+(\d+) kB$", (PROCESS / "status").read_text(), re.MULTILINE)
    if found is None:
        raise OSError(f"the kernel does not report {name}")
    return 1024 * int(found[1])


def extra_megabytes(method: str, dtype: str) -> float:
    """The peak of one call at N = 16,384, D = 3,584, k = 1,638, from a fresh process.

    Raises:
        subprocess.SubprocessError: when the process fails, or takes too long.
    """
    return float(run_with_timeout(LONGEST_RUN, [sys.executable, "-m", __name__, method, dtype]))


def run(method: str, dtype: torch.dtype) -> float:
    """Calls the operator on noise, in this process."""
    select = getattr(torch.ops.tokenprune, method).default
    x = torch.empty(COUNT, DEPTH, dtype=dtype).normal_(generator=torch.Generator().manual_seed(0))
    norm = importance.norm(x)

    def arguments(rows: int, k: int) -> tuple[object, ...]:
        return METHODS[method].arguments(x[:rows], norm[:rows], (k,), LAM)

    select(*arguments(64, 8))  # starts the threads
    reset_peak("cpu")
    before = _resident_bytes("VmRSS")
    picks = select(*arguments(COUNT, K))
    after = peak_bytes("cpu")
    if len(picks.unique()) != K:
        raise SystemExit(f"{len(picks.unique())} distinct picks instead of {K}")
    return 1e-6 * (after - before)


if __name__ == "__main__":
    print(run(sys.argv[1], getattr(torch, sys.argv[2])))
