"""The largest memory in use: of the device's allocator, or of this process, which Linux counts."""

from __future__ import annotations

from pathlib import Path

import torch

PROCESS = Path("/proc/self")


def reset_peak(device: str) -> None:
    """Forgets what was in use before."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    else:
        # 5 sets the high water mark back to what is resident now (proc(5)).
        (PROCESS / "clear_refs").write_text("5")


def peak_bytes(device: str) -> int:
    """The most in use since then, weights included."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated()
    status = (PROCESS / "status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in status if line.startswith("VmHWM"))
