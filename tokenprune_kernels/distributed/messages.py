"""What ranks send one another: rows, what they know of each, and the best key that they have beside them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

_NO_INDEX = torch.iinfo(torch.int64).max


@dataclass(frozen=True)
class Key:
    """A score and the global index of its row. The smaller key is the one whose row is picked first."""

    score: float
    index: int

    @classmethod
    def none(cls) -> Key:
        """Comes after the key of every row."""
        return cls(-torch.inf, _NO_INDEX)

    def __lt__(self, other: Key) -> bool:
        """A higher score comes first, then a lower index."""
        return self.score > other.score or (self.score == other.score and self.index < other.index)


@dataclass(frozen=True)
class Rows:
    """Rows that a rank sends, or those of all ranks.

    Attributes:
        index: global, int64 ``[m]``.
        values: float32 ``[m, columns]``: the reciprocal norm, and what else the sender knows of each.
        x: ``[m, D]``, on their device; all else is on the CPU.
        outside: the best key that each sender has beside them.
    """

    index: Tensor
    values: Tensor
    x: Tensor
    outside: Sequence[Key] = ()

    def __len__(self) -> int:
        return len(self.index)

    @property
    def norms(self) -> Tensor:
        """Their reciprocal norms."""
        return self.values[:, 0].contiguous()

    def at(self, places: Tensor) -> Rows:
        """Some of them."""
        return Rows(self.index[places], self.values[places], self.x[places])

    def packed(self, capacity: int) -> Tensor:
        """One message of the same length on all ranks, uint8, on the device of the rows."""
        (outside,) = self.outside
        columns = self.values.shape[1]
        index = self.index.new_full((capacity + 2,), _NO_INDEX)
        index[0], index[1] = len(self), outside.index
        index[2 : 2 + len(self)] = self.index
        values = self.values.new_zeros(capacity + 1, columns)
        values[0, 0] = outside.score
        values[1 : 1 + len(self)] = self.values
        x = self.x.new_zeros((capacity, self.x.shape[1]))
        x[: len(self)] = self.x
        parts = (index.to(x.device), values.to(x.device), x)
        message = torch.cat([part.reshape(-1).view(torch.uint8) for part in parts])
        return torch.nn.functional.pad(message, (0, -len(message) % 8))

    @classmethod
    def unpacked(cls, messages: Tensor, capacity: int, columns: int, like: Tensor) -> Rows:
        """The rows of all ranks, in the order of their indices. ``like`` has their D and dtype."""
        parts: list[tuple[Tensor, Tensor, Tensor]] = []
        outside = []
        index_end = 8 * (capacity + 2)
        values_end = index_end + 4 * columns * (capacity + 1)
        x_end = values_end + capacity * like.shape[1] * like.itemsize
        # In one copy from their device, whose rows begin at multiples of 8 bytes.
        heads = messages[:, : values_end + values_end % 8].contiguous().cpu()
        for message, known in zip(messages, heads, strict=True):
            index = known[:index_end].view(torch.int64)
            values = known[index_end:values_end].view(torch.float32).reshape(-1, columns)
            x = message[values_end:x_end].view(like.dtype).reshape(capacity, like.shape[1])
            count = int(index[0])
            outside.append(Key(float(values[0, 0]), int(index[1])))
            parts.append((index[2 : 2 + count], values[1 : 1 + count], x[:count]))
        index, values, x = (torch.cat(part) for part in zip(*parts, strict=True))
        order = index.argsort()
        return cls(index[order], values[order], x[order], outside)
