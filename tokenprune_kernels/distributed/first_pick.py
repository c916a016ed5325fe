"""The first pick: of DivPrune the top outlier of all rows, of the other methods the row with the largest weight."""

from __future__ import annotations

import torch
from torch import Tensor

from .exchange import Exchange
from .shard import NO_KEY, Key, Rows, Shard

_OUTLIERS = 16


def largest_weight(shard: Shard, exchange: Exchange, relevance: Tensor) -> tuple[Key, Rows] | None:
    """The finite row with the largest relevance, in one collective; None if no row is finite."""
    weight = torch.where(shard.finite, relevance, -torch.inf)
    best = weight.argmax().reshape(1) if bool(shard.finite.any()) else weight.new_empty(0, dtype=torch.int64)
    values = torch.stack([shard.norms[best], weight[best]], dim=1)
    mine = Rows(shard.first + best, values, shard.x[best], [NO_KEY])
    rows = Rows.unpacked(exchange.gather(mine.packed(1)), 1, 2, shard.x)
    if len(rows.index) == 0:
        return None
    place = int(rows.values[:, 1].argmax())  # the first of equals, and indices ascend
    return Key(float(rows.values[place, 1]), int(rows.index[place])), _one(rows, place)


def top_outlier(shard: Shard, exchange: Exchange) -> tuple[Key, Rows] | None:
    """The finite row whose nearest other finite row, on any rank, is farthest; None if no row is finite.

    More rows only bring a row's nearest one closer, so its distance on its own rank is an upper bound. Each rank
    proposes its top outliers. Their scores become exact when every rank has compared them with its rows. The best of
    them is right if it comes before the last proposal of each rank, the best that a rank may have besides. Otherwise
    there are twice as many proposals.
    """
    wanted = _OUTLIERS
    while True:
        positions, scores = shard.outliers(wanted)
        complete = len(positions) < wanted or len(positions) == int(shard.finite.sum())
        outside = NO_KEY if complete else Key(float(scores[-1]), shard.first + int(positions[-1]))
        values = torch.stack([shard.norms[positions], scores], dim=1)
        mine = Rows(shard.first + positions, values, shard.x[positions], [outside])
        rows = Rows.unpacked(exchange.gather(mine.packed(wanted)), wanted, 2, shard.x)
        if len(rows.index) == 0:
            return None
        exact = 1.0 - exchange.maximum(_nearest(shard, rows))
        place = int(exact.argmax())
        key = Key(float(exact[place]), int(rows.index[place]))
        if not any(other.comes_before(key) for other in rows.outside):
            return key, _one(rows, place)
        wanted *= 2


def _nearest(shard: Shard, rows: Rows) -> Tensor:
    """The largest similarity of each of the rows to another finite row of this rank, -inf where there is none."""
    if len(shard) == 0:
        return rows.values.new_full((len(rows.index),), -torch.inf)
    similarities = shard.similarities_of(rows.x, rows.values[:, 0].contiguous())
    similarities[~shard.finite] = -torch.inf
    for place, index in enumerate(rows.index.tolist()):
        position = shard.position(index)
        if position is not None:
            similarities[position, place] = -torch.inf
    return similarities.amax(dim=0)


def _one(rows: Rows, place: int) -> Rows:
    return Rows(rows.index[place : place + 1], rows.values[place : place + 1], rows.x[place : place + 1], ())
