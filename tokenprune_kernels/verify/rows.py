"""Which rows of an item are finite, and what the contract derives from its weights."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor

SMALLEST_NORM = 1e-12
"""Norms below this count as this when a similarity is formed."""

NO_GAIN = 2e-5
"""Gains of the DPP below this share of the largest ``L_ii`` count as zero."""


def finite_rows(x: Tensor, weight: Tensor | None = None) -> Tensor:
    """Returns which rows of x ``[N, D]`` are finite: every element, the float32 sum of squares, the float32 weight."""
    finite = x.isfinite().all(dim=-1) & x.double().square().sum(dim=-1).float().isfinite()
    return finite if weight is None else finite & weight.float().isfinite()


def scaled_importance(importance: Tensor, finite: Tensor) -> Tensor:
    """Returns IDPruner's relevance: float32 importance ``[N]`` scaled to [0, 1] over the finite rows.

    Every operation is rounded to float32. Zero on non-finite rows, and everywhere if the range overflows float32.
    """
    relevance = torch.zeros_like(importance)
    if finite.any():
        smallest, largest = importance[finite].min(), importance[finite].max()
        if (largest - smallest).isfinite():
            relevance[finite] = (importance[finite] - smallest) / (largest - smallest + 1e-6)
    return relevance


def self_similarity(norm: Tensor) -> Tensor:
    """Returns the similarity of each row to itself, given norms ``[N]``: 1 unless the norm is below its floor."""
    return torch.where(norm >= SMALLEST_NORM, 1.0, (norm / SMALLEST_NORM).square())


def segments(cu_seqlens: Tensor, cu_k: Tensor, rows: int, total_k: int) -> list[tuple[slice, slice]]:
    """Returns the rows and the output rows of each segment.

    Raises:
        ValueError: unless both prefix sums rise from 0 to within their capacity.
    """
    starts, kept = cu_seqlens.tolist(), cu_k.tolist()
    for name, sums, capacity in (("cu_seqlens", starts, rows), ("cu_k", kept, total_k)):
        if sums[0] != 0 or sums != sorted(sums) or sums[-1] > capacity:
            raise ValueError(f"expected {name} to rise from 0 to at most {capacity}, got {sums}")
    return [(slice(*row), slice(*out)) for row, out in zip(pairwise(starts), pairwise(kept), strict=True)]
