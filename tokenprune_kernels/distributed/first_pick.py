"""The first pick: of DivPrune the top outlier of all rows, of the other methods the row with the largest weight."""

from __future__ import annotations

import torch
from torch import Tensor

from .exchange import Exchange
from .messages import Key, Rows
from .shard import Shard

_OUTLIERS = 16  # that a rank proposes at first
_MOST_PROPOSALS = 1024  # of all ranks at a time, unless the first ones are more


def largest_weight(shard: Shard, exchange: Exchange, relevance: Tensor) -> tuple[float, Rows] | None:
    """The finite row with the largest relevance and this, in one collective; None if no row is finite."""
    weight = torch.where(shard.finite, relevance, -torch.inf)
    best = weight.argmax().reshape(1) if bool(shard.finite.any()) else weight.new_empty(0, dtype=torch.int64)
    values = torch.stack([shard.norms[best], weight[best]], dim=1)
    mine = Rows(shard.first + best, values, shard.rows(best), [Key.none()])
    rows = Rows.unpacked(exchange.gather(mine.packed(1)), 1, 2, mine.x)
    return _best(rows, rows.values[:, 1]) if len(rows) else None


def top_outlier(shard: Shard, exchange: Exchange) -> tuple[float, Rows] | None:
    """The finite row whose nearest other finite row, on any rank, is farthest, and how far; None if no row is finite.

    More rows only bring a row's nearest one closer, so its distance on its own rank is an upper bound. Each rank
    proposes the rows with the largest ones. Their distances become exact when every rank has compared them with its
    rows. The farthest of them is right if it comes before all that any rank has not proposed. Otherwise each rank
    proposes more. Where one tensor has all rows, its top outlier is the answer.
    """
    alone = exchange.size == 1 and shard.parts == 1
    count = 1 if alone else _OUTLIERS
    proposals = _Proposals(shard, count)
    best, proposed = Key.none(), 0
    found: tuple[float, Rows] | None = None
    while True:
        mine = proposals.next(count)
        rows = Rows.unpacked(exchange.gather(mine.packed(count)), count, 1, mine.x)
        if len(rows):
            distance, row = _best(rows, 1.0 - exchange.maximum(shard.nearest_to(rows)))
            key = Key(distance, int(row.index))
            if key < best:
                best, found = key, (distance, row)
        if not any(key < best for key in rows.outside):
            return found
        proposed += count
        count = max(_OUTLIERS, min(proposed, _MOST_PROPOSALS // exchange.size))


class _Proposals:
    """The rows of one rank that may be the first pick, the farthest from others of this rank first."""

    def __init__(self, shard: Shard, wanted: int) -> None:
        self._shard, self._wanted = shard, wanted
        self._proposed = torch.zeros_like(shard.finite)
        self._positions, self._scores, self._outside = self._found()

    def next(self, count: int) -> Rows:
        """So many rows, or all that are left, with the best key that this rank has not proposed yet."""
        while len(self._positions) < count and self._outside != Key.none():
            self._wanted *= 2
            self._positions, self._scores, self._outside = self._found()
        shard, now = self._shard, self._positions[:count]
        outside = self._outside
        if len(self._positions) > count:
            outside = min(outside, Key(float(self._scores[count]), shard.first + int(self._positions[count])))
        self._proposed[now] = True
        self._positions, self._scores = self._positions[count:], self._scores[count:]
        return Rows(shard.first + now, shard.norms[now].unsqueeze(1), shard.rows(now), [outside])

    def _found(self) -> tuple[Tensor, Tensor, Key]:
        """The top outliers of each tensor that were not proposed, their scores, and the best key of all others."""
        positions, scores, outside = self._shard.outliers(self._wanted)
        order = positions.argsort()
        order = order[scores[order].argsort(descending=True, stable=True)]
        order = order[~self._proposed[positions[order]]]
        return positions[order], scores[order], outside


def _best(rows: Rows, scores: Tensor) -> tuple[float, Rows]:
    """The row with the highest score and this: the first of equals, and indices ascend."""
    place = scores.argmax().reshape(1)
    return float(scores[place]), rows.at(place)
