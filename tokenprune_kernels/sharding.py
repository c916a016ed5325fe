"""The sharding rule of the operators on DTensors: a batch may be sharded, N and D are whole.

Selections of different items do not depend on one another, so an operator works on the items of its shard. A DTensor
that is sharded along N or D is gathered first. Varlen operators take whole tensors.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import torch

from .declaration import NAMESPACE, OPERATORS

_registered = False


def register() -> None:
    """Registers the rule with torch.distributed.tensor, once.

    It happens when this package is imported after ``torch.distributed.tensor``, as transformers imports it, and at the
    first call of one of this package's functions on a DTensor. Call it for an operator of ``torch.ops.tokenprune``
    that is called before either.
    """
    global _registered
    if _registered:
        return
    from torch.distributed.tensor.experimental import register_sharding

    for name in OPERATORS:
        packet = getattr(getattr(torch.ops, NAMESPACE), name)
        for overload in packet.overloads():
            register_sharding(getattr(packet, overload))(_rule(name, len(getattr(packet, overload)._schema.returns)))
    _registered = True


def register_if_loaded() -> None:
    """Registers the rule if torch.distributed.tensor has been imported; its import takes seconds."""
    if "torch.distributed.tensor" in sys.modules:
        register()


def _rule(name: str, results: int) -> Callable[..., list[Any]]:
    from torch.distributed.tensor import Replicate, Shard

    def rule(x: Any, *arguments: Any) -> list[Any]:
        tensors = [hasattr(argument, "placements") for argument in (x, *arguments)]

        def everywhere(placement: Any) -> tuple[list[Any], list[Any]]:
            return [placement] * results, [placement if tensor else None for tensor in tensors]

        batch = 0 if name.endswith("_varlen") else x.ndim - 2
        return [everywhere(Replicate()), *(everywhere(Shard(dimension)) for dimension in range(batch))]

    return rule
