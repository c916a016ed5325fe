"""Greedy MAP inference for a determinantal point process (Chen et al., NeurIPS 2018, arXiv 1709.05135)."""

from __future__ import annotations

import torch
from torch import Tensor

from .greedy import each_item
from .similarity import SMALLEST_NORM, finite_rows, similarity_matrix

NO_GAIN = 2e-5
"""Gains below this share of the largest ``L_ii`` count as zero."""


def dpp(x: Tensor, relevance: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The contract's DPP on x ``[..., N, D]`` and relevance ``[..., N]``: indices and float64 scores, ``[..., k]``.

    Raises:
        ValueError: for a finite negative relevance, or unless ``0 <= k <= N``.
    """
    relevance = relevance.float()
    negative = relevance[(relevance < 0) & relevance.isfinite()]
    if len(negative):
        raise ValueError(f"expected relevance to be at least 0, got {float(negative[0]):.6g}")
    return each_item(_dpp, x, k, relevance)


def _dpp(x: Tensor, k: int, relevance: Tensor) -> tuple[Tensor, Tensor]:
    finite = finite_rows(x, relevance)
    kernel = kernel_matrix(x, relevance, finite)
    threshold = NO_GAIN * float(kernel.diagonal().max()) if len(kernel) else 0.0
    unselected = torch.ones(len(x), dtype=torch.bool)
    picks, won = [], []
    for _ in range(k):
        # The kernel less the part that the picks explain. Its diagonal holds the gains.
        gains = kernel.diagonal().clone()
        scores = torch.where(finite, torch.where(gains < threshold, 0.0, gains), -torch.inf)
        best = scores[unselected].max()
        pick = int((unselected & (scores == best)).nonzero()[0])
        picks.append(pick)
        won.append(float(best))
        unselected[pick] = False
        if best > 0:
            kernel = kernel - kernel[:, pick].outer(kernel[pick]) / kernel[pick, pick]
    return torch.tensor(picks, dtype=torch.int64), torch.tensor(won, dtype=torch.float64)


def kernel_matrix(x: Tensor, relevance: Tensor, finite: Tensor) -> Tensor:
    """``relevance_i * similarity_ij * relevance_j``, float64 ``[N, N]``; zero for non-finite rows."""
    similarity = similarity_matrix(x, finite)
    similarity.diagonal().copy_(self_similarity(x, finite))
    relevance = torch.where(finite, relevance.double(), 0.0)
    return relevance.unsqueeze(-1) * similarity * relevance


def self_similarity(x: Tensor, finite: Tensor) -> Tensor:
    """Returns the similarity of each row to itself, float64 ``[N]``: exactly 1, unless its norm is below its floor."""
    norm = torch.where(finite.unsqueeze(-1), x.double(), 0.0).norm(dim=-1)
    return torch.where(norm >= SMALLEST_NORM, 1.0, (norm / SMALLEST_NORM).square())
