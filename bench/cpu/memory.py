"""The memory that a call takes beside its tokens, in a process of its own: ``python -m bench.cpu.memory METHOD DTYPE``.

Prints the megabytes (10^6) by which the resident set's peak during the call exceeds the resident set before it. Needs
Linux, whose peak can be set back.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

import torch

from bench.child import output_within
from tokenprune_kernels import importance

from .cases import LAM

COUNT, DEPTH, K = 16_384, 3_584, 1_638
LONGEST_RUN = 90.0
SIMILARITIES_MEGABYTES = 4e-6 * COUNT**2


def extra_megabytes(method: str, dtype: str) -> float:
    """The peak of one call at N = 16,384, D = 3,584, k = 1,638, from a fresh process.

    Raises:
        subprocess.SubprocessError: when the process fails, or takes too long.
    """
    return float(output_within(LONGEST_RUN, [sys.executable, "-m", __name__, method, dtype]))


def run(method: str, dtype: torch.dtype) -> float:
    """Calls the operator on noise, in this process."""
    select = getattr(torch.ops.tokenprune, method).default
    x = torch.empty(COUNT, DEPTH, dtype=dtype).normal_(generator=torch.Generator().manual_seed(0))

    def arguments(rows: int, k: int) -> tuple[object, ...]:
        kept = x[:rows]
        return (kept, k) if method == "divprune" else (kept, importance.norm(kept), k, LAM)

    select(*arguments(64, 8))  # starts the threads
    given = arguments(COUNT, K)
    Path("/proc/self/clear_refs").write_text("5")
    before = _resident_bytes("VmRSS")
    picks = select(*given)
    after = _resident_bytes("VmHWM")
    if len(picks.unique()) != K:
        raise SystemExit(f"{len(picks.unique())} distinct picks instead of {K}")
    return 1e-6 * (after - before)


def _resident_bytes(name: str) -> int:
    found = re.search(rf"^{name}:\s+(\d+) kB$", Path("/proc/self/status").read_text(), re.MULTILINE)
    if found is None:
        raise SystemExit(f"the kernel does not report {name}")
    return 1024 * int(found[1])


if __name__ == "__main__":
    print(run(sys.argv[1], getattr(torch, sys.argv[2])))
