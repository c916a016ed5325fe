"""The Triton backend: CUDA tensors, or CPU tensors in Triton's interpreter (TRITON_INTERPRET=1)."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import itertools
from collections.abc import Callable, Iterable
from typing import Any

import torch

from ...methods import METHODS


@functools.cache
def unavailable(device_type: str) -> str | None:
    """Why the backend cannot run on tensors of this device type; None when it can."""
    if importlib.util.find_spec("triton") is None:
        return "triton is not installed"
    interpreted = importlib.import_module("triton").knobs.runtime.interpret
    if device_type == "cpu" and not interpreted:
        return "it runs on CPU tensors only in Triton's interpreter, with TRITON_INTERPRET=1 set before the process"
    if device_type == "cuda" and interpreted:
        return "TRITON_INTERPRET=1 is set, with which it runs on CPU tensors"
    return None


def operator(name: str, overload: str) -> Callable[..., Any]:
    """The Triton form of an operator."""
    return _launch().operator(name, overload)


def set_workspace_limit(size: int) -> int:
    """Sets how many bytes of similarities the backend holds at a time; returns the limit until then.

    A batch that needs more is worked through in slices, of one item at least. An item or a ragged batch that needs more
    is selected from by candidate blocks, whose memory is linear in the number of rows. The picks are the same, to the
    bit. Partial sums, where there are too few tiles for the chip, are not counted; they take at most half a MiB a
    multiprocessor. At first the limit is 1 GiB, or what the environment variable ``TOKENPRUNE_WORKSPACE_LIMIT`` says.

    Args:
        size: in bytes, at least 1.

    Raises:
        ValueError: size is below 1.
        TypeError: size is no int.
    """
    if not isinstance(size, int) or isinstance(size, bool):
        raise TypeError(f"set_workspace_limit: expected size to be an int, got {type(size).__name__}")
    if size < 1:
        raise ValueError(f"set_workspace_limit: expected size to be at least 1, got {size}")
    launch = _launch()
    before, launch.WORKSPACE_LIMIT = launch.WORKSPACE_LIMIT, size
    return int(before)


def warmup(
    shapes: Iterable[tuple[int, int]],
    *,
    dtype: torch.dtype = torch.bfloat16,
    methods: Iterable[str] = tuple(METHODS),
    device: torch.device | str = "cuda",
) -> None:
    """Compiles ahead what selections from items of the given shapes need, packed ones included.

    Kernels are compiled for buckets of shapes, at the first call of each. Inside a CUDA graph capture nothing is ever
    compiled: a bucket that is met there for the first time raises RuntimeError.

    Args:
        shapes: ``(N, D)`` of each kind of item.
        dtype: of the tokens.
        methods: names in ``tokenprune_kernels.methods.METHODS``, by default all. Weights may be float32 or of the
            tokens' dtype.
        device: a CUDA device. The CPU in Triton's interpreter has nothing to compile.

    Raises:
        ValueError: a shape without rows or elements, or an unknown method.

    Example:
        >>> import tokenprune_kernels
        >>> tokenprune_kernels.warmup([(576, 4096)], methods=["divprune"])  # doctest: +SKIP
    """
    shapes, methods = list(shapes), list(methods)
    for method in methods:
        if method not in ("divprune", "mmr", "idpruner", "dpp"):
            raise ValueError(f"warmup: methods: expected divprune, mmr, idpruner or dpp, got {method!r}")
    for count, depth in shapes:
        if min(count, depth) < 1:
            raise ValueError(f"warmup: shapes: expected N and D of at least 1, got {(count, depth)}")
        x = torch.ones(count, depth, dtype=dtype, device=device)
        sums = torch.tensor([0, count], dtype=torch.int32, device=device)
        kept = torch.tensor([0, 1], dtype=torch.int32, device=device)
        for method in methods:
            all_weights = (
                [()] if method == "divprune" else [(x.new_ones(count, dtype=d),) for d in {dtype, torch.float32}]
            )
            for weights, overload in itertools.product(all_weights, ("default", "scores")):
                for form in _launch().forms_of(method, count):
                    with _launch().forced(form):
                        operator(method, overload)(x, *weights, 1)
                        operator(f"{method}_varlen", overload)(x, *weights, sums, kept, 1, count)


@functools.cache
def _launch() -> Any:
    """Imported at the first use: importing triton takes a while, and kernels are bound to the interpreter then."""
    return importlib.import_module(".launch", __package__)
