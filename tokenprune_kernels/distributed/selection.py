"""One selection from rows of several processes, round by round."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .exchange import Exchange
from .first_pick import largest_weight, top_outlier
from .lazy_greedy import LazyGreedy, ScoresOf
from .messages import Key, Rows
from .shard import Shard


@dataclass(frozen=True)
class Selection:
    """What was picked, the same on every rank.

    Attributes:
        indices: int64 ``[k]``, in the order of selection, on the device of the rows. These are numbered through all
            ranks.
        scores: float32 ``[k]``, the score with which each was picked, on the same device.
        rows: how many rows each rank has.
        rank: this process.
        collectives: how many collectives the selection made.
        received_bytes: what they brought to this process.
    """

    indices: Tensor
    scores: Tensor
    rows: tuple[int, ...]
    rank: int
    collectives: int
    received_bytes: int

    def local(self) -> Tensor:
        """The picks among this rank's own rows, as positions in its ``x_local``, in the order of selection."""
        position = self.indices - sum(self.rows[: self.rank])
        return position[(position >= 0) & (position < self.rows[self.rank])]


class Progress:
    """A selection that goes on round by round, and may be left in between.

    Args:
        method: ``"divprune"``, ``"mmr"`` or ``"idpruner"``.
        parts: the rows of this rank, one or several tensors ``[n, D]``.
        weight: relevance or importance of these rows, ``[n]``; None for DivPrune.
        k: how many rows to pick of all ranks, beside the initial ones.
        lam: the weight of relevance against diversity.
        exchange: of the selection.
        rows: how many rows each rank has.
        initial: global indices of rows that count as selected before the first pick, the same on all ranks.
    """

    def __init__(
        self,
        method: str,
        parts: Sequence[Tensor],
        weight: Tensor | None,
        k: int,
        lam: float,
        exchange: Exchange,
        rows: Sequence[int],
        initial: Tensor | None = None,
    ) -> None:
        self._exchange, self._rows, self._device = exchange, tuple(rows), parts[0].device
        none = torch.empty(0, dtype=torch.int64, device="cpu")
        self._initial = none if initial is None else initial.cpu().contiguous()
        weight = None if weight is None else weight.detach().cpu().float()
        self._shard = Shard(method, parts, weight, sum(rows[: exchange.rank]))
        self._relevance = None
        scores_of: ScoresOf = _distance
        if weight is not None:
            self._relevance = weight if method == "mmr" else _scaled(weight, self._shard, exchange)
            scores_of = _marginal_relevance(lam)
        relevance = self._shard.norms if self._relevance is None else self._relevance  # DivPrune looks at none
        self._greedy = LazyGreedy(self._shard, exchange, scores_of, relevance, k, len(self._initial))

    def rounds(self) -> Iterator[int]:
        """Yields the number of picks after the first pick and after each round."""
        greedy, shard = self._greedy, self._shard
        if len(greedy.index) == 0:
            return
        if len(self._initial):
            initial = _rows_at(self._initial, shard, self._exchange, self._rows)
            greedy.start_from(self._initial, initial.at((initial.norms > 0).nonzero().squeeze(1)))
        if not greedy.started:
            first = (
                top_outlier(shard, self._exchange)
                if self._relevance is None
                else largest_weight(shard, self._exchange, self._relevance)
            )
            if first is not None:
                score, row = first
                greedy.pick(row, row.values.new_tensor([score]))
        for _ in greedy.rounds():
            yield greedy.count

    def indices(self) -> Tensor:
        """The picks so far, int64, in the order of selection, without the initial rows."""
        return self._greedy.index[: self._greedy.count]

    def selection(self) -> Selection:
        """What the caller gets in the end."""
        exchange = self._exchange
        return Selection(
            self._greedy.index.to(self._device),
            self._greedy.scores.to(self._device),
            self._rows,
            exchange.rank,
            exchange.collectives,
            exchange.received_bytes,
        )


def _rows_at(index: Tensor, shard: Shard, exchange: Exchange, counts: Sequence[int]) -> Rows:
    """The rows with these global indices, which each rank has some of, ascending."""
    owner = torch.bucketize(index, index.new_tensor(counts).cumsum(0), right=True)
    most = int(owner.bincount().max())
    position = index[owner == exchange.rank] - shard.first
    mine = Rows(shard.first + position, shard.norms[position].unsqueeze(1), shard.rows(position), [Key.none()])
    return Rows.unpacked(exchange.gather(mine.packed(most)), most, 1, mine.x)


def _distance(maximum: Tensor, relevance: Tensor) -> Tensor:
    return 1.0 - maximum


def _marginal_relevance(lam: float) -> ScoresOf:
    return lambda maximum, relevance: lam * relevance - (1.0 - lam) * maximum


def _scaled(importance: Tensor, shard: Shard, exchange: Exchange) -> Tensor:
    """IDPruner's relevance: importance scaled to [0, 1] over the finite rows of all ranks."""
    of_finite = importance[shard.finite]
    extremes = importance.new_full((2,), -torch.inf)  # of -minimum and maximum
    if len(of_finite):
        extremes[0], extremes[1] = -of_finite.min(), of_finite.max()
    largest_negative, largest = exchange.maximum(extremes)
    smallest = -largest_negative
    span = largest - smallest
    if not bool(span.isfinite()):
        return torch.zeros_like(importance)
    return torch.where(shard.finite, (importance - smallest) / (span + 1e-6), 0.0)
