"""What travels with an image or video from the processor to the model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...methods import METHODS
from .options import OPTION, WEIGHTS

FIELD = OPTION + "_{}"  # by modality
_METHODS = tuple(METHODS)
_WEIGHTS = (None, *WEIGHTS)


@dataclass(frozen=True)
class Item:
    """How an image or video is pruned. Equal items keep the same tokens.

    Attributes:
        digest: of the item's contents, 16 bytes.
        method: a name of ``METHODS``.
        weight: one of ``WEIGHTS``, or None.
        lam: the weight of that against diversity, or None.
        counts: how many tokens each segment has.
        kept: how many of them it keeps.
    """

    digest: bytes
    method: str
    weight: str | None
    lam: float | None
    counts: tuple[int, ...]
    kept: tuple[int, ...]

    @property
    def keeps_all(self) -> bool:
        """Whether every token stays."""
        return self.kept == self.counts

    def packed(self) -> Tensor:
        """Returns the item as int64 numbers, the only kind that every transport of vLLM carries unchanged."""
        lam = np.float64(-1 if self.lam is None else self.lam).view(np.int64)
        head = np.frombuffer(self.digest, dtype=np.int64).tolist()
        choice = [_METHODS.index(self.method), _WEIGHTS.index(self.weight), int(lam)]
        return torch.tensor([*head, *choice, *self.counts, *self.kept], dtype=torch.int64)

    @classmethod
    def unpacked(cls, numbers: Sequence[int]) -> Item:
        """Returns the item of ``packed().tolist()``."""
        method, weight, lam = numbers[2:5]
        value = float(np.int64(lam).view(np.float64))
        segments = (len(numbers) - 5) // 2
        return cls(
            np.array(numbers[:2], dtype=np.int64).tobytes(),
            _METHODS[method],
            _WEIGHTS[weight],
            None if value < 0 else value,
            tuple(numbers[5 : 5 + segments]),
            tuple(numbers[5 + segments :]),
        )


def popped_items(kwargs: dict[str, Any], modalities: Sequence[str]) -> list[Item]:
    """Takes the fields of this package out of the arguments of ``embed_multimodal``, in the order of the items."""
    items = []
    for name in [name for name in kwargs if name in {FIELD.format(modality) for modality in modalities}]:
        rows = kwargs.pop(name)
        items += [Item.unpacked(torch.as_tensor(row).flatten().tolist()) for row in rows]
    return items
