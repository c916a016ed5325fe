"""The float64 judge of DivPrune's picks among so many rows that ``verify_trace`` would not fit or end.

It is the replay of ``tokenprune_kernels.verify`` on blocks of rows and picks. The first pick is certified by the
clusters that the rows were drawn from: no row is farther from its nearest other row than from its nearest row of the
same cluster.
"""

from __future__ import annotations

import torch
from torch import Tensor

EPS = 1e-5
_ROWS, _PICKS = 1 << 15, 64


def mistake(x: Tensor, clusters: Tensor, picks: Tensor) -> str:
    """What is wrong with the picks ``[k]`` of x ``[N, D]``, whose rows are finite and not zero; empty if nothing is."""
    if len(picks.unique()) != len(picks) or not bool(((picks >= 0) & (picks < len(x))).all()):
        return "a pick is repeated or out of range"
    return mistake_of_first(x, clusters, int(picks[0])) or mistake_of_others(x, picks)


def mistake_of_first(x: Tensor, clusters: Tensor, first: int) -> str:
    """What is wrong with the first pick."""
    distance = float(_nearest(x, torch.tensor([first]))[0])
    bound = torch.full((len(x),), torch.inf, dtype=torch.float64)
    for members in clusters.argsort(stable=True).split(clusters.bincount().tolist()):
        unit = _unit(x[members])
        similarity = unit @ unit.mT
        similarity.fill_diagonal_(-torch.inf)
        if len(members) > 1:
            bound[members] = 1.0 - similarity.amax(dim=1)
    contenders = (bound > distance + 2 * EPS).nonzero().squeeze(1)
    for some in contenders.split(_PICKS) if len(contenders) else ():
        farther = _nearest(x, some)
        if float(farther.max()) > distance + 2 * EPS:
            return f"pick 0: row {first} is picked where row {int(some[farther.argmax()])} is better"
    return ""


def mistake_of_others(x: Tensor, picks: Tensor) -> str:
    """What is wrong with the first of the later picks that is wrong."""
    nearest = torch.full((len(x),), -torch.inf, dtype=torch.float64)
    for start in range(0, len(picks), _PICKS):
        block = picks[start : start + _PICKS]
        similarity = torch.cat([_unit(rows) @ _unit(x[block]).mT for rows in x.split(_ROWS)]).mT.contiguous()
        for step, pick in enumerate(block.tolist(), start):
            if step and float(nearest[pick] - nearest.min()) > 2 * EPS:
                return f"pick {step}: row {pick} is picked where row {int(nearest.argmin())} is better"
            torch.maximum(nearest, similarity[step - start], out=nearest)
            nearest[pick] = torch.inf
    return ""


def _unit(rows: Tensor) -> Tensor:
    rows = rows.double()
    return rows / rows.norm(dim=1, keepdim=True)


def _nearest(x: Tensor, some: Tensor) -> Tensor:
    """The distance of some rows to their nearest other rows."""
    nearest = torch.full((len(some),), -torch.inf, dtype=torch.float64)
    own = _unit(x[some])
    for number, rows in enumerate(x.split(_ROWS)):
        similarity = own @ _unit(rows).mT
        here = some - number * _ROWS
        inside = ((here >= 0) & (here < len(rows))).nonzero().squeeze(1)
        similarity[inside, here[inside]] = -torch.inf
        nearest = torch.maximum(nearest, similarity.amax(dim=1))
    return 1.0 - nearest
