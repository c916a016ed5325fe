"""Which rows of several segments stay, by one varlen operator."""

from __future__ import annotations

from itertools import accumulate

import torch
from torch import Tensor

from ..declaration import NAMESPACE
from ..methods import METHODS


def select_rows(
    x: Tensor, counts: list[int], kept_counts: list[int], method: str, weight: Tensor | None, lam: float | None
) -> Tensor:
    """Selects rows in each segment of a packed tensor.

    Args:
        x: tokens, ``[T, D]``.
        counts: how many rows each segment has.
        kept_counts: how many of them stay.
        method: a name of ``METHODS``.
        weight: one for each row, ``[T]``, if the method has a weight.
        lam: its weight against diversity; None for 0.5.

    Returns:
        The row numbers in x, int64 ``[sum of kept_counts]``, segment by segment in selection order.
    """
    operator = getattr(getattr(torch.ops, NAMESPACE), f"{method}_varlen")
    cu_seqlens, cu_k = _prefix_sums(counts, x.device), _prefix_sums(kept_counts, x.device)
    budget = (cu_seqlens, cu_k, sum(kept_counts), max(counts))
    return operator(*METHODS[method].arguments(x, weight, budget, 0.5 if lam is None else lam))


def _prefix_sums(counts: list[int], device: torch.device) -> Tensor:
    return torch.tensor([0, *accumulate(counts)], dtype=torch.int32, device=device)
