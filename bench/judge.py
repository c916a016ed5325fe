"""Whether a selection is right: no time counts for one that is not."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from bench.cases import LAM
from bench.inputs import Tokens
from tokenprune_kernels.verify import verify_trace

# Above this many rows the float64 replay takes only the first picks: the first j of k picks are the picks for j.
WHOLE_REPLAY_ROWS, REPLAYED_PICKS = 6_400, 64


def mistake(method: str, x: Tensor, picks: Tensor, k: int, weight: Tensor | None, lam: float = LAM) -> str:
    """What is wrong with the picks ``[k]`` of ``[N, D]``; empty when they are right."""
    x, picks = x.cpu(), picks.cpu().long()
    if picks.shape != (k,):
        return f"picks of shape {list(picks.shape)} instead of {[k]}"
    distinct = len(picks[(picks >= 0) & (picks < len(x))].unique())
    if distinct != k:
        return f"{distinct} distinct picks instead of {k}"
    replayed = picks if len(x) <= WHOLE_REPLAY_ROWS else picks[:REPLAYED_PICKS]
    verdict = verify_trace(method, x, replayed, None if weight is None else weight.cpu(), lam)
    return "" if verdict else f"pick {verdict.step}: {verdict.reason}"


def mistake_of_items(method: str, tokens: Tokens, x: Tensor, picks: Sequence[Tensor], weight: Tensor | None) -> str:
    """What is wrong with the picks of the first item that has wrong ones; empty when all are right."""
    weights = [None] * len(tokens.ks) if weight is None else tokens.items(weight)
    for item, each in enumerate(zip(tokens.items(x), picks, tokens.ks, weights, strict=True)):
        if wrong := mistake(method, *each):
            return wrong if len(tokens.ks) == 1 else f"item {item}: {wrong}"
    return ""


def same(picks: Sequence[Tensor], others: Sequence[Tensor]) -> bool:
    """Whether two selections are equal, item by item."""
    return len(picks) == len(others) and all(map(torch.equal, picks, others))
