"""Which rows were kept of an image or video, so that it keeps the same ones when it is encoded again."""

from __future__ import annotations

from collections import OrderedDict

from torch import Tensor

from .item import Item


class RememberedRows:
    """The kept rows of the items that were encoded last.

    vLLM forgets an item's embeddings before it forgets the KV blocks of its prompts. Encoded again, in another batch,
    the item may have other bits, and a near tie may fall to another row: the blocks of one selection would be
    continued with rows of another.
    """

    def __init__(self, capacity: int = 1 << 22) -> None:
        """Makes an empty memory for that many row numbers of 8 bytes, or fewer where items keep few rows."""
        self._capacity = capacity
        self._size = 0
        self._rows: OrderedDict[Item, Tensor] = OrderedDict()

    def get(self, item: Item) -> Tensor | None:
        """Returns the rows of an equal item, int64 ``[k]``; None where they are not known any more."""
        rows = self._rows.get(item)
        if rows is not None:
            self._rows.move_to_end(item)
        return rows

    def add(self, item: Item, rows: Tensor) -> None:
        """Remembers the rows of an item that ``get`` did not know, and forgets those not asked for longest."""
        self._rows[item] = rows
        self._size += _size(rows)
        while self._size > self._capacity and len(self._rows) > 1:
            _, forgotten = self._rows.popitem(last=False)
            self._size -= _size(forgotten)


def _size(rows: Tensor) -> int:
    """What an item is counted as: a short tensor and its key take memory too."""
    return len(rows) + 128
