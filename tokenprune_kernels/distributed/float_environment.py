"""The floating point of the calling thread: like the operators, a selection keeps subnormal numbers."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch

_SUBNORMAL = 1e-40


@contextlib.contextmanager
def keeping_subnormal_numbers() -> Iterator[None]:
    """Undoes ``torch.set_flush_denormal(True)`` in the block, for the calling thread."""
    flushed = bool(torch.tensor(_SUBNORMAL, dtype=torch.float32, device="cpu") == 0)
    if flushed:
        torch.set_flush_denormal(False)
    try:
        yield
    finally:
        if flushed:
            torch.set_flush_denormal(True)
