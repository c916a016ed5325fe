"""Whether a selection is right: no time counts for one that is not."""

from __future__ import annotations

import torch
from torch import Tensor

from tokenprune_kernels.verify import verify_trace

# Above this many rows the float64 replay takes only the first picks: the first j of k picks are the picks for j.
WHOLE_REPLAY_ROWS, REPLAYED_PICKS = 6_400, 64


def mistake(method: str, x: Tensor, indices: Tensor, k: int, weight: Tensor | None, lam: float) -> str:
    """What is wrong with the picks ``[..., k]`` of ``[..., N, D]``; empty when they are right."""
    x, indices = x.cpu(), indices.cpu().long()
    if indices.shape != (*x.shape[:-2], k):
        return f"picks of shape {list(indices.shape)} instead of {[*x.shape[:-2], k]}"
    for picks in indices.reshape(-1, k):
        distinct = len(picks[(picks >= 0) & (picks < x.shape[-2])].unique())
        if distinct != k:
            return f"{distinct} distinct picks instead of {k}"
    replayed = indices if x.shape[-2] <= WHOLE_REPLAY_ROWS else indices[..., :REPLAYED_PICKS]
    trace = verify_trace(method, x, replayed, None if method == "divprune" else weight, lam)
    return "" if trace else f"pick {trace.step}: {trace.reason}"


def changed(results: list[Tensor], expected: Tensor) -> bool:
    """Whether a timed call picked otherwise than the checked one."""
    return not all(torch.equal(result, expected) for result in results)
