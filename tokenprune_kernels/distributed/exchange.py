"""The collectives of one selection, counted.

They are those of torch.distributed, of any process group. A tensor is sent from where it lies, if the group can send
from there, and by way of another device if not.
"""

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

    def __init__(self, group: dist.ProcessGroup | None, near: torch.device | None = None) -> None:
        """Of a process group.

        Args:
            group: None for all processes.
            near: where the rows are. What lies on a device whose tensors the group cannot send goes by way of it.

        Raises:
            ValueError: this process is not one of the group.
        """
        self._group = group
        there = dist.is_available() and dist.is_initialized()
        self.rank = dist.get_rank(group) if there else 0
        self.size = dist.get_world_size(group) if there else 1
        if self.rank < 0:
            raise ValueError("expected a group that this process belongs to, got one that it does not")
        self._sendable = _device_types(group) if self.size > 1 else frozenset()
        self._other = near if near is not None and near.type in self._sendable else _default_device(self._sendable)
        self.collectives = 0
        self.received_bytes = 0

    def gather(self, tensor: Tensor) -> Tensor:
        """The tensors of all ranks, of one shape and dtype: ``[size, *shape]``."""
        if self.size == 1:
            return tensor.unsqueeze(0)
        sent = self._sent(tensor)
        gathered = sent.new_empty((self.size, *tensor.shape))
        self._count(gathered.nbytes)
        dist.all_gather(list(gathered.unbind()), sent, group=self._group)
        return gathered.to(tensor.device)

    def maximum(self, tensor: Tensor) -> Tensor:
        """The largest of each element over all ranks."""
        if self.size == 1:
            return tensor
        sent = self._sent(tensor.clone())
        self._count(sent.nbytes)
        dist.all_reduce(sent, dist.ReduceOp.MAX, group=self._group)
        return sent.to(tensor.device)

    def texts(self, facts: dict[str, Any]) -> Sequence[dict[str, Any]]:
        """What each rank says, by rank."""
        text = json.dumps(facts).encode()[:_TEXT_BYTES].ljust(_TEXT_BYTES)
        gathered = self.gather(torch.tensor(list(text), dtype=torch.uint8, device="cpu"))
        return [json.loads(bytes(row.tolist())) for row in gathered]

    def _sent(self, tensor: Tensor) -> Tensor:
        """The tensor on a device whose tensors the group can send."""
        return tensor.to(tensor.device if tensor.device.type in self._sendable else self._other).contiguous()

    def _count(self, received: int) -> None:
        self.collectives += 1
        self.received_bytes += received


def _device_types(group: dist.ProcessGroup | None) -> frozenset[str]:
    """The types of device whose tensors a process group can send."""
    return frozenset(part.partition(":")[0] for part in dist.get_backend_config(group).split(","))


def _default_device(sendable: frozenset[str]) -> torch.device:
    """The CPU, or what a group without it sends from, as NCCL alone does: the GPU of this process."""
    return torch.device("cpu" if "cpu" in sendable else min(sendable, default="cpu"))
