"""The first pick: of DivPrune the top outlier of all rows, of the other methods the row with the largest weight."""

from __future__ import annotations

import torch
from torch import Tensor

from .exchange import Exchange
from .messages import Key, Rows
from .shard import Shard

_OUTLIERS = 16


def largest_weight(shard: Shard, exchange: Exchange, relevance: Tensor) -> tuple[float, Rows] | None:
    """The finite row with the largest relevance and this, in one collective; None if no row is finite."""
    weight = torch.where(shard.finite, relevance, -torch.inf)
    best = weight.argmax().reshape(1) if bool(shard.finite.any()) else torch.empty(0, dtype=torch.int64)
    values = torch.stack([shard.norms[best], weight[best]], dim=1)
    mine = Rows(shard.first + best, values, shard.rows(best), [Key.none()])
    rows = Rows.unpacked(exchange.gather(mine.packed(1)), 1, 2, mine.x)
    return _best(rows, rows.values[:, 1]) if len(rows) else None


def top_outlier(shard: Shard, exchange: Exchange) -> tuple[float, Rows] | None:
    """The finite row whose nearest other finite row, on any rank, is farthest, and how far; None if no row is finite.

    More rows only bring a row's nearest one closer, so its distance on its own rank is an upper bound. Each rank
    proposes its top outliers. Their scores become exact when every rank has compared them with its rows. The best of
    them is right if it comes before the last proposal of each rank, the best that a rank may have besides. Otherwise
    there are twice as many proposals.
    """
    wanted = _OUTLIERS
    parts = int(exchange.maximum(torch.tensor([shard.parts])))
    while True:
        positions, scores, outside = shard.outliers(wanted)
        values = torch.stack([shard.norms[positions], scores], dim=1)
        mine = Rows(shard.first + positions, values, shard.rows(positions), [outside])
        rows = Rows.unpacked(exchange.gather(mine.packed(parts * wanted)), parts * wanted, 2, mine.x)
        if len(rows) == 0:
            return None
        exact = 1.0 - exchange.maximum(_nearest(shard, rows))
        distance, best = _best(rows, exact)
        if not any(key < Key(distance, int(best.index)) for key in rows.outside):
            return distance, best
        wanted *= 2


def _nearest(shard: Shard, rows: Rows) -> Tensor:
    """The largest similarity of each of the rows to another finite row of this rank, -inf where there is none."""
    nearest = torch.full((len(rows),), -torch.inf)
    own = [(place, shard.position(index)) for place, index in enumerate(rows.index.tolist())]
    for positions, similarities in shard.similarities_of_all(rows.x, rows.norms):
        similarities[~shard.finite[positions]] = -torch.inf
        for place, position in own:
            if position is not None and positions.start <= position < positions.stop:
                similarities[position - positions.start, place] = -torch.inf
        nearest = torch.maximum(nearest, similarities.amax(dim=0))
    return nearest


def _best(rows: Rows, scores: Tensor) -> tuple[float, Rows]:
    """The row with the highest score and this: the first of equals, and indices ascend."""
    place = scores.argmax().reshape(1)
    return float(scores[place]), rows.at(place)
