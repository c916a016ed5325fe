"""The picks after the first: rounds of a lazy greedy selection (Minoux, 1978) with one collective each.

It is the selection of ``csrc/cpu/selection/lazy_greedy.h``, one level up. In a round, each rank (1) refreshes the rows
with the best upper bounds, its frontier, and (2) sends the best of these, its candidates, with the best key that it has
beside them. Every rank then (3) picks among the candidates of all ranks, with their similarities to one another alone,
for as long as the best of them comes before what any rank has outside. All ranks compute the same picks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from .exchange import Exchange
from .messages import Key, Rows
from .shard import Shard

ScoresOf = Callable[[Tensor, Tensor], Tensor]
"""From each row's largest similarity to a pick, and its relevance, to its score."""

_FRONTIER = 8  # times the candidates, at least
_LARGEST_FRONTIER = 8  # one of so many rows, at most
_PICKS_PER_UPDATE = 64  # at least


def candidates_of_a_round(k: int, size: int) -> int:
    """How many candidates a rank sends at most. More of them make fewer, larger rounds."""
    return max(64, min(256, k // (4 * size)))


class LazyGreedy:
    """The selection of one rank. Every rank makes the same calls.

    Attributes:
        index: the global indices of the picks so far, int64 ``[k]``.
        scores: with which they were picked, float32 ``[k]``.
        count: how many there are.
    """

    def __init__(
        self, shard: Shard, exchange: Exchange, scores_of: ScoresOf, relevance: Tensor, k: int, initial_rows: int = 0
    ) -> None:
        new, most = shard.norms, initial_rows + k  # new tensors are of this dtype, on the CPU
        self._shard, self._exchange, self._scores_of, self._relevance = shard, exchange, scores_of, relevance
        self._candidates = candidates_of_a_round(k, exchange.size)
        self._frontier = self._least_frontier = _FRONTIER * self._candidates
        self._maximum = torch.full_like(new, -torch.inf)
        self._seen = torch.zeros_like(new, dtype=torch.int64)
        self._bounds = torch.full_like(new, -torch.inf)  # -inf of rows that cannot be picked
        self._is_initial = torch.zeros_like(new, dtype=torch.bool)
        self._x = shard.empty(most)  # the selected rows that are finite, the initial ones first
        self._norms = new.new_empty(most)
        self._selected = 0
        self.index = new.new_empty(k, dtype=torch.int64)
        self.scores = new.new_empty(k)
        self.count = 0

    @property
    def started(self) -> bool:
        """Whether a finite row is selected, so that the next pick is no first one."""
        return self._selected > 0

    def start_from(self, index: Tensor, finite: Rows) -> None:
        """Has rows count as selected before the first pick.

        Args:
            index: their global indices.
            finite: the finite ones among them: the others influence nothing.
        """
        position = index - self._shard.first
        self._is_initial[position[(position >= 0) & (position < len(self._shard))]] = True
        self._select(finite)

    def pick(self, rows: Rows, scores: Tensor) -> None:
        """Adds the next picks, which are finite, and the scores with which they were picked, float32."""
        self._select(rows)
        place = slice(self.count, self.count + len(rows))
        self.index[place], self.scores[place] = rows.index, scores + 0.0  # which makes -0.0 to 0.0
        self.count += len(rows)

    def rounds(self) -> Iterator[None]:
        """Makes all picks after the first, and yields after each round."""
        if self.started:
            self._start()
            while self.count < len(self.index) and self._round():
                yield
        if self.count < len(self.index):
            self._pick_non_finite()
            yield

    def _start(self) -> None:
        """Updates every row with the first selected one: its score is then an upper bound."""
        shard = self._shard
        self._maximum = shard.similarities_to(self._x[:1], self._norms[:1])
        self._seen += 1
        scores = self._scores_of(self._maximum, self._relevance)
        self._bounds = torch.where(shard.finite & ~self._is_initial, scores, -torch.inf)
        position = self.index[: self.count] - shard.first
        self._bounds[position[(position >= 0) & (position < len(shard))]] = -torch.inf

    def _round(self) -> bool:
        """Picks at least one row. Returns False if no rank has one left."""
        mine = self._propose()
        messages = self._exchange.gather(mine.packed(self._candidates))
        rows = Rows.unpacked(messages, self._candidates, mine.values.shape[1], mine.x)
        if len(rows) == 0:
            return False
        _, maximum, relevance = (column.contiguous() for column in rows.values.unbind(dim=1))
        outside = min(rows.outside)
        similarities = self._shard.similarities_between(rows.x, rows.norms, rows.x, rows.norms)
        scores = self._scores_of(maximum, relevance)
        picked: list[int] = []
        won: list[float] = []
        available = scores.clone()
        while self.count + len(picked) < len(self.index):
            best, place = available.max(dim=0)  # the first of equals, and indices ascend
            key = Key(float(best), int(rows.index[place]))
            if best == -torch.inf or not key < outside:
                break
            picked.append(int(place))
            won.append(key.score)
            maximum = torch.maximum(maximum, similarities[place])
            scores = self._scores_of(maximum, relevance)
            available = torch.where(available == -torch.inf, available, scores)
            available[place] = -torch.inf
        self._fit_frontier(len(picked))
        self.pick(rows.at(rows.index.new_tensor(picked)), maximum.new_tensor(won))
        self._learn(rows.index, maximum, available)
        return True

    def _fit_frontier(self, picks: int) -> None:
        """Takes more rows in the next round where this one had few picks, and fewer where it had many."""
        if picks < self._candidates // 4:
            self._frontier = min(2 * self._frontier, len(self._shard) // _LARGEST_FRONTIER)
        elif picks > self._candidates // 2:
            self._frontier //= 2
        self._frontier = max(self._frontier, self._least_frontier)

    def _propose(self) -> Rows:
        """The best rows of this rank, which have seen all picks, with the best key outside."""
        shard = self._shard
        size = self._frontier
        while True:
            frontier, outside = self._best(torch.arange(len(shard), device="cpu"), size)
            live = self._refresh(frontier, outside)
            if len(live) or outside == Key.none():
                break
            size *= 2  # the picks lowered most scores
        chosen, best_left = self._best(live, self._candidates)
        values = torch.stack([shard.norms[chosen], self._maximum[chosen], self._relevance[chosen]], dim=1)
        return Rows(shard.first + chosen, values, shard.rows(chosen), [min(outside, best_left)])

    def _best(self, positions: Tensor, count: int) -> tuple[Tensor, Key]:
        """The positions with the best upper bounds, of the rows that can be picked, and the best key of the rest."""
        bounds = self._bounds[positions]
        positions = positions[bounds > -torch.inf]
        if len(positions) <= count:
            return positions, Key.none()
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
            stale = positions[self._seen[positions] < self._selected]
            if len(stale) == 0:
                return self._beating(positions, outside)
            begin = int(self._seen[stale].min())
            end = min(self._selected, begin + max(begin, _PICKS_PER_UPDATE))
            group = stale[self._seen[stale] < end]
            largest = self._shard.largest_similarities(group, self._x[begin:end], self._norms[begin:end])
            self._maximum[group] = torch.maximum(self._maximum[group], largest)
            self._seen[group] = end
            self._bounds[group] = self._scores_of(self._maximum[group], self._relevance[group])
            positions = self._beating(positions, outside)

    def _beating(self, positions: Tensor, outside: Key) -> Tensor:
        bounds, index = self._bounds[positions], self._shard.first + positions
        return positions[(bounds > outside.score) | ((bounds == outside.score) & (index < outside.index))]

    def _select(self, rows: Rows) -> None:
        place = slice(self._selected, self._selected + len(rows))
        self._x[place], self._norms[place] = rows.x, rows.norms
        self._selected += len(rows)

    def _learn(self, index: Tensor, maximum: Tensor, scores: Tensor) -> None:
        """Notes what a round has found out about the candidates of this rank; -inf is the score of a pick."""
        position = index - self._shard.first
        mine = (position >= 0) & (position < len(self._shard))
        position = position[mine]
        self._maximum[position], self._bounds[position] = maximum[mine], scores[mine]
        self._seen[position] = self._selected

    def _pick_non_finite(self) -> None:
        """Picks the rows that are not finite, lowest index first."""
        missing = len(self.index) - self.count
        positions = (~self._shard.finite & ~self._is_initial).nonzero().squeeze(1)[:missing]
        index = self.index.new_full((missing,), torch.iinfo(torch.int64).max)
        index[: len(positions)] = self._shard.first + positions
        self.index[self.count :] = self._exchange.gather(index).reshape(-1).sort().values[:missing]
        self.scores[self.count :] = -torch.inf
        self.count = len(self.index)
