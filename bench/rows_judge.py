"""The float64 judge of DivPrune's picks among so many rows that ``verify_trace`` would not fit or end.

It is the replay of ``tokenprune_kernels.verify`` on blocks of rows and picks. The first pick is certified by the
clusters that the rows were drawn from: no row is farther from its nearest other row than from its nearest row of the
same cluster. It takes 8 N (D + 256) bytes.
"""

from __future__ import annotations

import torch
from torch import Tensor

EPS = 1e-5
_ROWS, _PICKS = 1 << 15, 256


def mistake(x: Tensor, clusters: Tensor, picks: Tensor) -> str:
    """What is wrong with the picks ``[k]`` of x ``[N, D]``, whose rows are finite and not zero; empty if nothing is."""
    if len(picks.unique()) != len(picks) or not bool(((picks >= 0) & (picks < len(x))).all()):
        return "a pick is repeated or out of range"
    unit = x.double()
    for rows in unit.split(_ROWS):
        rows /= rows.norm(dim=1, keepdim=True)
    return mistake_of_first(unit, clusters, int(picks[0])) or mistake_of_others(unit, picks)


def mistake_of_first(unit: Tensor, clusters: Tensor, first: int) -> str:
    """What is wrong with the first pick."""
    distance = float(_nearest(unit, torch.tensor([first]))[0])
    bound = torch.full((len(unit),), torch.inf, dtype=torch.float64)
    for members in clusters.argsort(stable=True).split(clusters.bincount().tolist()):
        own = unit[members]
        similarity = own @ own.mT
        similarity.fill_diagonal_(-torch.inf)
        if len(members) > 1:
            bound[members] = 1.0 - similarity.amax(dim=1)
    contenders = (bound > distance + 2 * EPS).nonzero().squeeze(1)
    for some in contenders.split(_PICKS) if len(contenders) else ():
        farther = _nearest(unit, some)
        if float(farther.max()) > distance + 2 * EPS:
            return f"pick 0: row {first} is picked where row {int(some[farther.argmax()])} is better"
    return ""


def mistake_of_others(unit: Tensor, picks: Tensor) -> str:
    """What is wrong with the first of the later picks that is wrong."""
    nearest = torch.full((len(unit),), -torch.inf, dtype=torch.float64)
    for start in range(0, len(picks), _PICKS):
        block = picks[start : start + _PICKS]
        similarity = unit[block] @ unit.mT
        for step, pick in enumerate(block.tolist(), start):
            if step and float(nearest[pick] - nearest.min()) > 2 * EPS:
                return f"pick {step}: row {pick} is picked where row {int(nearest.argmin())} is better"
            torch.maximum(nearest, similarity[step - start], out=nearest)
            nearest[pick] = torch.inf
    return ""


def _nearest(unit: Tensor, some: Tensor) -> Tensor:
    """The distance of some rows to their nearest other rows."""
    similarity = unit[some] @ unit.mT
    similarity[torch.arange(len(some)), some] = -torch.inf
    return 1.0 - similarity.amax(dim=1)
