"""The Triton backend: CUDA tensors, or CPU tensors in Triton's interpreter (TRITON_INTERPRET=1)."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import itertools
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

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
    return _module("operators").operator(name, overload)


def instruction_set(x: Tensor) -> str:
    """What the bits of similarities depend on: the compiler, and the device."""
    return str(_module("rows").instruction_set(x))


def reciprocal_norms(x: Tensor) -> Tensor:
    """The reciprocal norm of each row of x ``[N, D]``, float32 ``[N]``; 0 for a row that is not finite."""
    return _module("rows").reciprocal_norms(x)


def similarities(x: Tensor, norms_x: Tensor, y: Tensor, norms_y: Tensor) -> Tensor:
    """The similarities of the rows of x to those of y, given their reciprocal norms: float32 ``[N of x, N of y]``."""
    return _module("rows").similarities(x, norms_x, y, norms_y)


def outliers(x: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The rows of x whose nearest other rows are farthest, best first, and these distances, float32."""
    return _module("rows").outliers(x, count)


def set_workspace_limit(size: int) -> int:
    """Sets how many bytes of similarities the backend holds at a time, in this process. Returns the limit before.

    A batch that needs more is worked through in slices of at least one item. If a single item, or a packed batch, needs
    more, the lazy greedy form selects from it, whose memory is linear in the number of rows. The picks are the same, to
    the bit. Partial sums of split-K are not counted: they take at most half a MiB a multiprocessor. At first the limit
    is 1 GiB, or what the environment variable ``TOKENPRUNE_WORKSPACE_LIMIT`` says.

    Args:
        size: in bytes, at least 1.

    Returns:
        The limit before, in bytes.

    Raises:
        ValueError: size is below 1.
        TypeError: size is no int.

    Example:
        >>> from tokenprune_kernels.backends.triton import set_workspace_limit
        >>> before = set_workspace_limit(2**28)
        >>> set_workspace_limit(before)
        268435456
    """
    if not isinstance(size, int) or isinstance(size, bool):
        raise TypeError(f"set_workspace_limit: expected size to be an int, got {type(size).__name__}")
    if size < 1:
        raise ValueError(f"set_workspace_limit: expected size to be at least 1, got {size}")
    return int(_module("runtime").set_default(workspace_limit=size).workspace_limit)


def warmup(
    shapes: Iterable[tuple[int, int]],
    *,
    dtype: torch.dtype = torch.bfloat16,
    methods: Iterable[str] = tuple(METHODS),
    device: torch.device | str = "cuda",
) -> None:
    """Compiles in advance what selections from items of the given shapes need, packed ones included.

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
    *names, last_name = METHODS
    for method in methods:
        if method not in METHODS:
            raise ValueError(f"warmup: methods: expected {', '.join(names)} or {last_name}, got {method!r}")
    operators, runtime = _module("operators"), _module("runtime")
    for count, d in shapes:
        if min(count, d) < 1:
            raise ValueError(f"warmup: shapes: expected N and D of at least 1, got {(count, d)}")
        x = torch.ones(count, d, dtype=dtype, device=device)
        cu_seqlens = torch.tensor([0, count], dtype=torch.int32, device=device)
        cu_k = torch.tensor([0, 1], dtype=torch.int32, device=device)
        for method in methods:
            dtypes = {dtype} if METHODS[method].weight is None else {dtype, torch.float32}
            for weight_dtype, overload in itertools.product(dtypes, ("default", "scores")):
                weight = x.new_ones(count, dtype=weight_dtype)
                for form in operators.forms_of(method, count):
                    with runtime.settings(form=form):
                        arguments = METHODS[method].arguments
                        operator(method, overload)(*arguments(x, weight, (1,), 0.5))
                        operator(f"{method}_varlen", overload)(*arguments(x, weight, (cu_seqlens, cu_k, 1, count), 0.5))


@functools.cache
def _module(name: str) -> Any:
    """A module of this package, imported at its first use.

    Importing triton takes a while. Kernels are bound to the interpreter, or not, at that time.
    """
    return importlib.import_module(f".{name}", __package__)
