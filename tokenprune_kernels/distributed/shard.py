"""The rows of one rank, and what a selection asks of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..backends import native

NO_INDEX = torch.iinfo(torch.int64).max


@dataclass(frozen=True)
class Key:
    """A score and the global index of its row. A higher score comes first, then a lower index."""

    score: float
    index: int

    def comes_before(self, other: Key) -> bool:
        """Whether the row of this key is picked first."""
        return self.score > other.score or (self.score == other.score and self.index < other.index)


NO_KEY = Key(-torch.inf, NO_INDEX)
"""Comes after the key of every row."""


class Shard:
    """The rows of this rank.

    Attributes:
        x: ``[n, D]``.
        norms: the reciprocal norm of each row, float32 ``[n]``; 0 for a row that is not finite.
        first: the global index of its first row.
    """

    def __init__(self, x: Tensor, weight: Tensor | None, first: int) -> None:
        self.x = x.detach()
        self.first = first
        self.norms = native.reciprocal_norms(self.x)
        if weight is not None:
            self.norms = torch.where(weight.isfinite(), self.norms, 0.0)
        self.finite = self.norms > 0

    def __len__(self) -> int:
        return self.x.shape[0]

    def similarities(self, positions: Tensor, x: Tensor, norms: Tensor) -> Tensor:
        """The similarities of rows of this rank to others: float32 ``[positions, rows of x]``."""
        return native.similarities(self.x[positions], self.norms[positions], x, norms)

    def similarities_of(self, x: Tensor, norms: Tensor) -> Tensor:
        """The similarities of all rows of this rank to others: float32 ``[n, rows of x]``."""
        return native.similarities(self.x, self.norms, x, norms)

    def among(self, x: Tensor, norms: Tensor) -> Tensor:
        """The similarities of rows of any rank among themselves."""
        return native.similarities(x, norms, x, norms)

    def outliers(self, count: int) -> tuple[Tensor, Tensor]:
        """The finite rows of this rank whose nearest other rows here are farthest, ``count`` if there are so many.

        Returns:
            their positions, and these distances, float32, in the order of keys.
        """
        positions = self.finite.nonzero().squeeze(1)
        if len(positions) == 0:
            return positions, self.norms[positions]
        x = self.x if len(positions) == len(self) else self.x[positions]
        found, scores = native.outliers(x, count)
        return positions[found], scores

    def position(self, index: int) -> int | None:
        """The position of a row by its global index; None if another rank has it."""
        position = index - self.first
        return position if 0 <= position < len(self) else None


@dataclass(frozen=True)
class Rows:
    """Rows that a rank sends, or those of all ranks.

    Attributes:
        index: global, int64 ``[m]``.
        values: float32 ``[m, columns]``: the reciprocal norm, and what else the sender knows of each.
        x: ``[m, D]``.
        outside: the best key that each sender has beside them.
    """

    index: Tensor
    values: Tensor
    x: Tensor
    outside: Sequence[Key]

    def packed(self, capacity: int) -> Tensor:
        """One message of the same length on all ranks, uint8."""
        (outside,) = self.outside
        count, device = len(self.index), self.x.device
        index = torch.full((capacity + 2,), NO_INDEX, dtype=torch.int64, device=device)
        index[0], index[1] = count, outside.index
        index[2 : 2 + count] = self.index
        columns = self.values.shape[1]
        values = torch.zeros((capacity + 1) * columns, device=device)
        values[0] = outside.score
        values[columns : columns + count * columns] = self.values.reshape(-1)
        x = self.x.new_zeros((capacity, self.x.shape[1]))
        x[:count] = self.x
        message = torch.cat([part.reshape(-1).view(torch.uint8) for part in (index, values, x)])
        return torch.nn.functional.pad(message, (0, -len(message) % 8))

    @classmethod
    def unpacked(cls, messages: Tensor, capacity: int, columns: int, like: Tensor) -> Rows:
        """The rows of all ranks, in the order of their indices. ``like`` has their D and dtype."""
        parts: list[tuple[Tensor, Tensor, Tensor]] = []
        outside = []
        index_end = 8 * (capacity + 2)
        values_end = index_end + 4 * columns * (capacity + 1)
        x_end = values_end + capacity * like.shape[1] * like.itemsize
        for message in messages:
            index = message[:index_end].view(torch.int64)
            values = message[index_end:values_end].view(torch.float32).reshape(-1, columns)
            x = message[values_end:x_end].view(like.dtype).reshape(capacity, like.shape[1])
            count = int(index[0])
            outside.append(Key(float(values[0, 0]), int(index[1])))
            parts.append((index[2 : 2 + count], values[1 : 1 + count], x[:count]))
        index, values, x = (torch.cat(part) for part in zip(*parts, strict=True))
        order = index.argsort()
        return cls(index[order], values[order], x[order], outside)
