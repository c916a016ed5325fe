"""The published selection loops, restated. Users run these today; they depart from the contract.

Each works in the dtype it is given unless said otherwise, on one item, x ``[N, D]``, and returns int64 ``[k]``.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def published_count(keep_ratio: float, count: int) -> int:
    """How many rows the published DivPrune code keeps: rounded half to even, with no guard against 0."""
    return round(keep_ratio * count)


def published_divprune(x: Tensor, k: int) -> Tensor:
    """The loop of the DivPrune authors (arXiv 2503.02175): no mask on what is selected, no guard on zero norms.

    The first pick has the largest second-smallest entry of its column of the distance matrix, the smallest being taken
    for the row's distance to itself. Nothing keeps a selected row from being picked again once every row has distance
    about 0 to the selection.
    """
    unit = x / x.norm(dim=1, keepdim=True)
    distance = 1.0 - unit @ unit.mT
    picks = torch.empty(k, dtype=torch.int64, device=x.device)
    for step in range(k):
        nearest = distance.topk(2, dim=0, largest=False).values[1] if step == 0 else distance[picks[:step]].amin(dim=0)
        picks[step] = nearest.argmax()
    return picks


def running_minimum_divprune(x: Tensor, k: int) -> Tensor:
    """The loop with a running minimum distance and a mask on the selected rows, as Tencent/AngelSlim runs it."""
    unit = F.normalize(x, dim=1)
    distance = 1.0 - unit @ unit.mT
    distance.fill_diagonal_(torch.inf)
    picks = torch.empty(k, dtype=torch.int64, device=x.device)
    if k == 0:
        return picks
    picks[0] = distance.amin(dim=1).argmax()
    nearest = distance[picks[0]]
    for step in range(1, k):
        picks[step] = nearest.index_fill(0, picks[:step], -1.0).argmax()
        nearest = torch.minimum(nearest, distance[picks[step]])
    return picks


def cholesky_dpp(x: Tensor, relevance: Tensor, k: int) -> Tensor:
    """The greedy inference of Chen et al. (arXiv 1709.05135, algorithm 1) on the whole kernel, as CDPruner runs it.

    Always in float32. No threshold says which gains count as zero: a gain that rounding makes negative turns all later
    ones into NaN.
    """
    unit = F.normalize(x.float(), dim=1)
    relevance = relevance.float()
    kernel = relevance.unsqueeze(1) * (unit @ unit.mT) * relevance
    gain = kernel.diagonal().clone()
    coefficients = torch.zeros(k, len(x), device=x.device)
    picks = torch.empty(k, dtype=torch.int64, device=x.device)
    for step in range(k):
        picks[step] = gain.argmax()
        pick = picks[step]
        explained = coefficients[:step, pick] @ coefficients[:step]
        coefficients[step] = (kernel[pick] - explained) / gain[pick].sqrt()
        gain = gain - coefficients[step].square()
        gain[pick] = -torch.inf
    return picks


def published_idpruner(x: Tensor, importance: Tensor, k: int, lam: float = 0.5) -> Tensor:
    """The IDPruner loop (arXiv 2602.13315) as Tencent/AngelSlim runs it, one pick a round.

    Always in float32, except that importance is scaled in the dtype it comes in.
    """
    x = x.float()
    unit = x / (x.norm(dim=-1, keepdim=True) + 1e-8)
    similarity = unit @ unit.mT
    relevance = (importance - importance.min()) / (importance.max() - importance.min() + 1e-6)
    relevance = relevance.float()
    running_maximum = torch.full_like(relevance, -2.0)
    unselected = torch.ones_like(relevance, dtype=torch.bool)
    picks = torch.empty(k, dtype=torch.int64, device=x.device)
    for step in range(k):
        score = relevance if step == 0 else lam * relevance - (1.0 - lam) * running_maximum
        picks[step] = score.masked_fill(~unselected, -torch.inf).topk(1).indices[0]
        unselected[picks[step]] = False
        running_maximum = torch.maximum(running_maximum, similarity[:, picks[step]])
    return picks
