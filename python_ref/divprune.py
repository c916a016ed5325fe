"""DivPrune: greedy max-min diversity (Alvar et al., CVPR 2025, arXiv 2503.02175)."""

from __future__ import annotations

import torch
from torch import Tensor

from .greedy import each_item, greedy
from .similarity import finite_rows, similarity_matrix


def divprune(x: Tensor, k: int, initial: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The contract's DivPrune on x ``[..., N, D]``: int64 indices and float64 scores, ``[..., k]``."""
    return each_item(_divprune, x, k, initial=initial)


def _divprune(x: Tensor, k: int, initial: Tensor | None = None) -> tuple[Tensor, Tensor]:
    finite = finite_rows(x)
    similarity = similarity_matrix(x, finite)
    return greedy(
        similarity,
        finite,
        k,
        first_scores=lambda: 1.0 - nearest_neighbour(similarity, finite),
        scores_of=lambda running_maximum: 1.0 - running_maximum,
        initial=initial,
    )


def nearest_neighbour(similarity: Tensor, finite: Tensor) -> Tensor:
    """The largest similarity of each row to another finite row, ``[N]``; -inf where there is none."""
    others = finite & ~torch.eye(len(finite), dtype=torch.bool)
    if not len(finite):
        return similarity.new_empty(0)
    return torch.where(others, similarity, -torch.inf).amax(dim=-1)
