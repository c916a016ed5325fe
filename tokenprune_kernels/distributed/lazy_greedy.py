"""The picks after the first: rounds of a lazy greedy selection (Minoux, 1978) with one collective each.

It is the selection of ``csrc/cpu/selection/lazy_greedy.h``, one level up. In a round, each rank (1) refreshes the rows
with the best upper bounds, its frontier, and (2) sends the best of these, its candidates, with the best key that it has
beside them. Every rank then (3) picks among the candidates of all ranks, with their similarities to one another alone,
for as long as the best of them comes before what any rank has outside. All ranks compute the same picks.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .exchange import Exchange
from .shard import NO_KEY, Key, Rows, Shard

ScoresOf = Callable[[Tensor, Tensor], Tensor]
"""From each row's largest similarity to a pick, and its relevance, to its score."""

_FRONTIER = 8  # times the candidates
_PICKS_PER_UPDATE = 64


def candidates_of_a_round(k: int, size: int) -> int:
    """How many candidates a rank sends at most. More of them make fewer, larger rounds."""
    return max(64, min(256, k // (8 * size)))


class LazyGreedy:
    """The selection of one rank. Every rank makes the same calls.

    Attributes:
        index: the global indices of the picks so far, int64 ``[k]``.
        scores: with which they were picked, float32 ``[k]``.
        count: how many there are.
    """

    def __init__(self, shard: Shard, exchange: Exchange, scores_of: ScoresOf, relevance: Tensor, k: int) -> None:
        n, device = len(shard), shard.x.device
        self._shard, self._exchange, self._scores_of, self._relevance = shard, exchange, scores_of, relevance
        self._candidates = candidates_of_a_round(k, exchange.size)
        self._maximum = torch.full((n,), -torch.inf, device=device)
        self._seen = torch.zeros(n, dtype=torch.int64, device=device)
        self._bounds = torch.full((n,), -torch.inf, device=device)  # -inf of rows that cannot be picked
        self._x = shard.x.new_empty((k, shard.x.shape[1]))
        self._norms = torch.empty(k, device=device)
        self.index = torch.empty(k, dtype=torch.int64, device=device)
        self.scores = torch.empty(k, device=device)
        self.count = 0

    def run(self, first: tuple[Key, Rows] | None) -> None:
        """Makes all picks."""
        k = len(self.index)
        if first is not None and k > 0:
            key, row = first
            self._append(row, torch.tensor([key.score]))
            self._start()
            while self.count < k and self._round():
                pass
        if self.count < k:
            self._pick_non_finite()

    def _start(self) -> None:
        """Updates every row with the first pick, whose own score bounds no later one."""
        shard = self._shard
        if len(shard):
            self._maximum = shard.similarities_of(self._x[:1], self._norms[:1]).squeeze(1)
        self._seen += 1
        scores = self._scores_of(self._maximum, self._relevance)
        self._bounds = torch.where(shard.finite, scores, -torch.inf)
        self._forget(self.index[:1])

    def _round(self) -> bool:
        """Picks at least one row. Returns False if no rank has one left."""
        columns = 3
        mine = self._propose()
        messages = self._exchange.gather(mine.packed(self._candidates))
        rows = Rows.unpacked(messages, self._candidates, columns, self._shard.x)
        if len(rows.index) == 0:
            return False
        norms, maximum, relevance = (column.contiguous() for column in rows.values.unbind(dim=1))
        outside = NO_KEY
        for key in rows.outside:
            outside = key if key.comes_before(outside) else outside
        similarities = self._shard.among(rows.x, norms)
        scores = self._scores_of(maximum, relevance)
        picked: list[int] = []
        won: list[float] = []
        available = scores.clone()
        while self.count + len(picked) < len(self.index):
            best, place = available.max(dim=0)  # the first of equals, and indices ascend
            key = Key(float(best), int(rows.index[place]))
            if best == -torch.inf or not key.comes_before(outside):
                break
            picked.append(int(place))
            won.append(key.score)
            maximum = torch.maximum(maximum, similarities[place])
            scores = self._scores_of(maximum, relevance)
            available = torch.where(available == -torch.inf, available, scores)
            available[place] = -torch.inf
        places = torch.tensor(picked, dtype=torch.int64, device=rows.index.device)
        chosen = Rows(rows.index[places], rows.values[places], rows.x[places], ())
        self._append(chosen, torch.tensor(won))
        self._learn(rows.index, maximum, available)
        return True

    def _propose(self) -> Rows:
        """The best rows of this rank, which have seen all picks, with the best key outside."""
        shard = self._shard
        frontier_size = _FRONTIER * self._candidates
        while True:
            frontier, outside = self._best(torch.arange(len(shard), device=shard.x.device), frontier_size)
            live = self._refresh(frontier, outside)
            if len(live) or outside == NO_KEY:
                break
            frontier_size *= 2  # the picks lowered most scores
        chosen, best_left = self._best(live, self._candidates)
        outside = best_left if best_left.comes_before(outside) else outside
        values = torch.stack([shard.norms[chosen], self._maximum[chosen], self._relevance[chosen]], dim=1)
        return Rows(shard.first + chosen, values, shard.x[chosen], [outside])

    def _best(self, positions: Tensor, count: int) -> tuple[Tensor, Key]:
        """The positions with the best upper bounds, of the rows that can be picked, and the best key of the rest."""
        bounds = self._bounds[positions]
        positions = positions[bounds > -torch.inf]
        if len(positions) <= count:
            return positions, NO_KEY
        bounds = self._bounds[positions]
        least = bounds.topk(count).values[-1]
        above = positions[bounds > least]
        equal = positions[bounds == least].sort().values
        chosen, left = equal[: count - len(above)], equal[count - len(above) :]
        best = torch.cat([above, chosen])
        if len(left):
            return best, Key(float(least), self._shard.first + int(left[0]))
        below = torch.where(bounds < least, bounds, -torch.inf)
        highest = below.max()
        first = positions[below == highest].min()
        return best, Key(float(highest), self._shard.first + int(first))

    def _refresh(self, positions: Tensor, outside: Key) -> Tensor:
        """Updates rows with the picks that they have not seen, each for as long as it may beat `outside`.

        Returns those that beat it, having seen all picks.
        """
        while True:
            stale = positions[self._seen[positions] < self.count]
            if len(stale) == 0:
                return self._beating(positions, outside)
            begin = int(self._seen[stale].min())
            end = min(self.count, begin + _PICKS_PER_UPDATE)
            group = stale[self._seen[stale] < end]
            similarities = self._shard.similarities(group, self._x[begin:end], self._norms[begin:end])
            self._maximum[group] = torch.maximum(self._maximum[group], similarities.amax(dim=1))
            self._seen[group] = end
            self._bounds[group] = self._scores_of(self._maximum[group], self._relevance[group])
            positions = self._beating(positions, outside)

    def _beating(self, positions: Tensor, outside: Key) -> Tensor:
        bounds, index = self._bounds[positions], self._shard.first + positions
        return positions[(bounds > outside.score) | ((bounds == outside.score) & (index < outside.index))]

    def _append(self, rows: Rows, scores: Tensor) -> None:
        place = slice(self.count, self.count + len(rows.index))
        self._x[place], self._norms[place] = rows.x, rows.values[:, 0]
        self.index[place], self.scores[place] = rows.index, scores.to(self.scores)
        self.count += len(rows.index)

    def _learn(self, index: Tensor, maximum: Tensor, scores: Tensor) -> None:
        """Notes what a round has found out about the candidates of this rank; -inf is the score of a pick."""
        position = index - self._shard.first
        mine = (position >= 0) & (position < len(self._shard))
        position = position[mine]
        self._maximum[position], self._bounds[position] = maximum[mine], scores[mine]
        self._seen[position] = self.count

    def _forget(self, index: Tensor) -> None:
        for each in index.tolist():
            position = self._shard.position(each)
            if position is not None:
                self._bounds[position] = -torch.inf

    def _pick_non_finite(self) -> None:
        """Picks the rows that are not finite, lowest index first."""
        missing = len(self.index) - self.count
        positions = (~self._shard.finite).nonzero().squeeze(1)[:missing]
        index = self.index.new_full((missing,), torch.iinfo(torch.int64).max)
        index[: len(positions)] = self._shard.first + positions
        self.index[self.count :] = self._exchange.gather(index).reshape(-1).sort().values[:missing]
        self.scores[self.count :] = -torch.inf
        self.count = len(self.index)
