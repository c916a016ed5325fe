"""The collectives of one selection, counted."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

_TEXT_BYTES = 1024


class Exchange:
    """A process group, or this process alone where there is none.

    Attributes:
        rank: of this process.
        size: how many processes there are.
        collectives: how many collectives this object has made.
        received_bytes: what they brought to this process.
    """

    def __init__(self, group: dist.ProcessGroup | None) -> None:
        self._group = group
        there = dist.is_available() and dist.is_initialized()
        self.rank = dist.get_rank(group) if there else 0
        self.size = dist.get_world_size(group) if there else 1
        self.collectives = 0
        self.received_bytes = 0

    def gather(self, tensor: Tensor) -> Tensor:
        """The tensors of all ranks, of one shape and dtype: ``[size, *shape]``."""
        if self.size == 1:
            return tensor.unsqueeze(0)
        gathered = tensor.new_empty((self.size, *tensor.shape))
        self._count(gathered.nbytes)
        dist.all_gather(list(gathered.unbind()), tensor.contiguous(), group=self._group)
        return gathered

    def maximum(self, tensor: Tensor) -> Tensor:
        """The largest of each element over all ranks."""
        if self.size > 1:
            self._count(tensor.nbytes)
            dist.all_reduce(tensor, dist.ReduceOp.MAX, group=self._group)
        return tensor

    def texts(self, facts: dict[str, Any]) -> Sequence[dict[str, Any]]:
        """What each rank says, by rank."""
        text = json.dumps(facts).encode()[:_TEXT_BYTES].ljust(_TEXT_BYTES)
        gathered = self.gather(torch.tensor(list(text), dtype=torch.uint8))
        return [json.loads(bytes(row.tolist())) for row in gathered]

    def _count(self, received: int) -> None:
        self.collectives += 1
        self.received_bytes += received
