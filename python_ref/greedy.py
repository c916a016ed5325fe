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
    initial: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Selects k rows of one item.

    Args:
        similarity: ``[N, N]``; the rows and columns of non-finite rows influence nothing.
        finite: bool ``[N]``.
        k: how many rows to select.
        first_scores: the scores of all rows ``[N]`` for the first pick.
        scores_of: the scores ``[N]`` for the later ones, given each row's largest similarity to a selected row ``[N]``.
        initial: rows that are selected before the first pick, ``[M]``.

    Returns:
        int64 indices ``[k]`` in selection order, and float64 ``[k]``, the score with which each was picked.
    """
    count = similarity.shape[0]
    running_maximum = torch.full((count,), -torch.inf, dtype=torch.float64)
    unselected = torch.ones(count, dtype=torch.bool)
    started = False
    for row in [] if initial is None else initial.tolist():
        unselected[row] = False
        if finite[row]:
            running_maximum = torch.maximum(running_maximum, similarity[:, row])
            started = True
    picks, won = [], []
    for _ in range(k):
        scores = scores_of(running_maximum) if started else first_scores()
        started = True
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
    select: Callable[..., tuple[Tensor, Tensor]], x: Tensor, k: int, *weights: Tensor, initial: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Runs ``select(x, k, *weights)`` for every item of a batch ``[..., N, D]``, with ``initial`` where it is given.

    Raises:
        ValueError: unless ``0 <= k <= N``, or ``0 <= k <= N - M`` beside M different initial rows in [0, N).
    """
    count, others = x.shape[-2], 0
    if initial is not None:
        others = initial.shape[-1]
        for rows in (initial[item].tolist() for item in _positions(x.shape[:-2])):
            if len(set(rows)) < len(rows) or not set(rows) <= set(range(count)):
                raise ValueError(f"expected different initial rows in [0, N) with N = {count}, got {rows}")
    if not 0 <= k <= count - others:
        beside = f" beside {others} initial rows" if others else ""
        raise ValueError(f"expected k to be in [0, N] with N = {count}{beside}, got {k}")
    x, weights = x.cpu(), tuple(weight.cpu() for weight in weights)
    leading = x.shape[:-2]
    indices = torch.empty(*leading, k, dtype=torch.int64)
    scores = torch.empty(*leading, k, dtype=torch.float64)
    for item in _positions(leading):
        given = {} if initial is None else {"initial": initial[item].cpu()}
        indices[item], scores[item] = select(x[item], k, *(weight[item] for weight in weights), **given)
    return indices, scores


def _positions(leading: torch.Size) -> list[tuple[int, ...]]:
    return [tuple(position.tolist()) for position in torch.ones(leading).nonzero()]
