"""The plain greedy loop: picks the best unselected row, lowest index first among equals, non-finite rows last."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def greedy(
    similarity: Tensor,
    finite: Tensor,
    k: int,
    first_scores: Callable[[], Tensor],
    scores_of: Callable[[Tensor], Tensor],
) -> tuple[Tensor, Tensor]:
    """Selects k rows of one item.

    Args:
        similarity: ``[N, N]``; the rows and columns of non-finite rows influence nothing.
        finite: bool ``[N]``.
        k: how many rows to select.
        first_scores: the scores of all rows ``[N]`` for the first pick.
        scores_of: the scores ``[N]`` for the later ones, given each row's largest similarity to a selected row ``[N]``.

    Returns:
        int64 indices ``[k]`` in selection order, and float64 ``[k]``, the score with which each was picked.
    """
    count = similarity.shape[0]
    running_maximum = torch.full((count,), -torch.inf, dtype=torch.float64)
    unselected = torch.ones(count, dtype=torch.bool)
    picks, won = [], []
    for step in range(k):
        scores = first_scores() if step == 0 else scores_of(running_maximum)
        scores = torch.where(finite, scores, -torch.inf)
        best = scores[unselected].max()
        pick = int((unselected & (scores == best)).nonzero()[0])
        picks.append(pick)
        won.append(float(best))
        unselected[pick] = False
        if finite[pick]:
            running_maximum = torch.maximum(running_maximum, similarity[:, pick])
    return torch.tensor(picks, dtype=torch.int64), torch.tensor(won, dtype=torch.float64)


def each_item(
    select: Callable[..., tuple[Tensor, Tensor]], x: Tensor, k: int, *weights: Tensor
) -> tuple[Tensor, Tensor]:
    """Runs ``select(x, k, *weights)`` for every item of a batch ``[..., N, D]``; ValueError unless ``0 <= k <= N``."""
    if not 0 <= k <= x.shape[-2]:
        raise ValueError(f"expected k to be in [0, N] with N = {x.shape[-2]}, got {k}")
    x, weights = x.cpu(), tuple(weight.cpu() for weight in weights)
    leading = x.shape[:-2]
    indices = torch.empty(*leading, k, dtype=torch.int64)
    scores = torch.empty(*leading, k, dtype=torch.float64)
    for item in _positions(leading):
        indices[item], scores[item] = select(x[item], k, *(weight[item] for weight in weights))
    return indices, scores


def _positions(leading: torch.Size) -> list[tuple[int, ...]]:
    return [tuple(position.tolist()) for position in torch.ones(leading).nonzero()]
