"""Numbers as columns of an embedding, exact in every dtype."""

from __future__ import annotations

import torch
from torch import Tensor

# Digits to the base 256 are exact in bfloat16, whose significand has 8 bits. Three of them reach 16,777,215.
DIGITS = 3


def encoded(numbers: Tensor, dtype: torch.dtype) -> Tensor:
    """Writes numbers of 0 to 16,777,215, int64 ``[rows, n]``, as floating ``[rows, 3 n]``."""
    return torch.cat([(numbers >> (8 * digit)) & 255 for digit in range(DIGITS)], dim=1).to(dtype)


def decoded(columns: Tensor) -> Tensor:
    """Returns what ``encoded`` wrote, int64 ``[rows, n]``."""
    digits = columns.long().chunk(DIGITS, dim=1)
    return sum((each << (8 * number) for number, each in enumerate(digits)), torch.zeros_like(digits[0]))
