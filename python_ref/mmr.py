"""Maximal marginal relevance (Carbonell & Goldstein, SIGIR 1998)."""

from __future__ import annotations

from torch import Tensor

from .greedy import each_item, greedy
from .similarity import finite_rows, similarity_matrix


def mmr(x: Tensor, relevance: Tensor, k: int, lam: float = 0.5, initial: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The contract's MMR on x ``[..., N, D]`` and relevance ``[..., N]``: indices and float64 scores, ``[..., k]``."""
    return each_item(
        lambda x, k, relevance, initial=None: select(x, relevance, finite_rows(x, relevance), k, lam, initial),
        x,
        k,
        relevance,
        initial=initial,
    )


def select(
    x: Tensor, relevance: Tensor, finite: Tensor, k: int, lam: float, initial: Tensor | None
) -> tuple[Tensor, Tensor]:
    """MMR on one item, x ``[N, D]``, whose finite rows ``[N]`` are known."""
    relevance = relevance.float().double()
    return greedy(
        similarity_matrix(x, finite),
        finite,
        k,
        first_scores=lambda: relevance,
        scores_of=lambda running_maximum: marginal_relevance(relevance, running_maximum, lam),
        initial=initial,
    )


def marginal_relevance(relevance: Tensor, running_maximum: Tensor, lam: float) -> Tensor:
    """``lam * relevance - (1 - lam) * running_maximum``, ``[N]``."""
    return lam * relevance - (1.0 - lam) * running_maximum
