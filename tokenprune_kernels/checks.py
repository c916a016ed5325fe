"""The checks of the operators' arguments, the same for every backend and while compiling.

Messages are ``OPERATOR: expected RULE, got VALUE``. A wrong dtype is a TypeError, everything else a ValueError.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .arguments import check_tensor

_TOKEN_DTYPES = (torch.float16, torch.bfloat16, torch.float32)
_WEIGHT_DTYPES = (*_TOKEN_DTYPES, torch.float64)


def check_dense(
    operator: str, x: Tensor, k: int, lam: float = 0.0, initial: Tensor | None = None, **weights: Tensor
) -> tuple[int, ...]:
    """Checks the arguments of an operator on a batch and returns the shape of its result.

    The contents of `initial` are left to the backends: reading them here would wait for a GPU.

    Args:
        operator: the name that messages begin with.
        x: tokens, ``[..., N, D]``.
        k: how many rows to keep of each item.
        lam: of the methods that have it.
        initial: the rows of each item that are selected already, ``[..., M]``; of the methods that have it.
        weights: ``relevance`` or ``importance``, by name, of the methods that have one.
    """
    check_tokens(operator, x)
    for name, weight in weights.items():
        _check_weight(operator, name, weight, x)
    given = 0
    if initial is not None:
        check_initial(operator, initial, x)
        given = initial.shape[-1]

    def message() -> str:
        count = x.shape[-2]
        if initial is None:
            return f"{operator}: expected k to be in [0, N] with N = {count}, got {k}"
        return f"{operator}: expected k to be in [0, N - M] with N = {count} and M = {given} initial rows, got {k}"

    _require(k >= 0, message)
    _require(k + given <= x.shape[-2], message)
    _check_lam(operator, lam)
    return (*x.shape[:-2], k)


def check_varlen(
    operator: str,
    x: Tensor,
    cu_seqlens: Tensor,
    cu_k: Tensor,
    total_k: int,
    max_seqlen: int,
    lam: float = 0.0,
    **weights: Tensor,
) -> tuple[int, ...]:
    """Checks the arguments of a varlen operator and returns the shape of its result, like ``check_dense``.

    The contents of the prefix sums are left to the backends: reading them here would wait for a GPU.
    """
    check_tokens(operator, x, varlen=True)
    for name, weight in weights.items():
        _check_weight(operator, name, weight, x)
    _check_prefix_sums(operator, cu_seqlens, cu_k, x)
    _check_capacity(operator, "total_k", total_k)
    _check_capacity(operator, "max_seqlen", max_seqlen)
    _check_lam(operator, lam)
    return (total_k,)


def check_tokens(operator: str, x: Tensor, *, varlen: bool = False) -> None:
    """Raises unless x is ``[..., N, D]`` (``[T, D]`` for varlen operators) of a supported dtype."""
    shaped = x.dim() == 2 if varlen else x.dim() >= 2
    _require(
        shaped and x.shape[-1] >= 1,
        lambda: (
            f"{operator}: expected x to have shape {'[T, D]' if varlen else '[..., N, D]'} with D >= 1, "
            f"got shape {list(x.shape)}"
        ),
    )
    _require(
        x.dtype in _TOKEN_DTYPES,
        lambda: f"{operator}: expected x to be float16, bfloat16 or float32, got {_dtype_name(x.dtype)}",
        TypeError,
    )


def check_initial(operator: str, initial: Tensor, x: Tensor) -> None:
    """Raises unless initial is int64 ``[..., M]`` beside x ``[..., N, D]``, on its device."""

    def message() -> str:
        shape = ", ".join([*map(str, x.shape[:-2]), "M"])
        return (
            f"{operator}: expected initial to have shape [{shape}] (x without its last two dimensions, and M rows), "
            f"got shape {list(initial.shape)}"
        )

    _require(initial.dim() == x.dim() - 1, message)
    for size, expected in zip(initial.shape[:-1], x.shape[:-2], strict=True):
        _require(size == expected, message)
    _require(
        initial.dtype == torch.int64,
        lambda: f"{operator}: expected initial to be int64, got {_dtype_name(initial.dtype)}",
        TypeError,
    )
    _check_device(operator, "initial", initial, x)


def check_dimensions(name: str, argument: str, tensor: Tensor, expected: str) -> None:
    """Raises in the name of `name` unless it is a tensor with the dimensions of a shape such as ``[..., N, D]``."""
    check_tensor(name, argument, tensor)
    if tensor.dim() < expected.count(","):
        raise ValueError(f"{name}: expected {argument} to have shape {expected}, got shape {list(tensor.shape)}")


def _check_weight(operator: str, name: str, weight: Tensor, x: Tensor) -> None:
    def message() -> str:
        return (
            f"{operator}: expected {name} to have shape {list(x.shape[:-1])} (x without its last dimension), "
            f"got shape {list(weight.shape)}"
        )

    _require(weight.dim() == x.dim() - 1, message)
    for size, expected in zip(weight.shape, x.shape, strict=False):
        _require(size == expected, message)
    _require(
        weight.dtype in _WEIGHT_DTYPES,
        lambda: (
            f"{operator}: expected {name} to be float16, bfloat16, float32 or float64, got {_dtype_name(weight.dtype)}"
        ),
        TypeError,
    )
    _check_device(operator, name, weight, x)


def _check_device(operator: str, name: str, tensor: Tensor, x: Tensor) -> None:
    _require(
        tensor.device == x.device,
        lambda: f"{operator}: expected {name} to be on the device of x, {x.device}, got {tensor.device}",
    )


def _check_lam(operator: str, lam: float) -> None:
    _require(0.0 <= lam <= 1.0, lambda: f"{operator}: expected lam to be in [0, 1], got {lam:.12g}")


def _check_capacity(operator: str, name: str, capacity: int) -> None:
    _require(capacity >= 0, lambda: f"{operator}: expected {name} to be at least 0, got {capacity}")


def _check_prefix_sums(operator: str, cu_seqlens: Tensor, cu_k: Tensor, x: Tensor) -> None:
    _require(
        cu_seqlens.dim() == 1 and cu_seqlens.shape[0] >= 1,
        lambda: (
            f"{operator}: expected cu_seqlens to have shape [S + 1] with S >= 0, got shape {list(cu_seqlens.shape)}"
        ),
    )

    def message() -> str:
        return (
            f"{operator}: expected cu_k to have the shape of cu_seqlens, {list(cu_seqlens.shape)}, "
            f"got shape {list(cu_k.shape)}"
        )

    _require(cu_k.dim() == 1, message)
    _require(cu_k.shape[0] == cu_seqlens.shape[0], message)
    for name, sums in (("cu_seqlens", cu_seqlens), ("cu_k", cu_k)):
        _check_int32(operator, name, sums)
        _check_device(operator, name, sums, x)


def _check_int32(operator: str, name: str, sums: Tensor) -> None:
    _require(
        sums.dtype == torch.int32,
        lambda: f"{operator}: expected {name} to be int32, got {_dtype_name(sums.dtype)}",
        TypeError,
    )


def _require(condition: Any, message: Callable[[], str], error: type[Exception] = ValueError) -> None:
    """Raises `error` unless the condition holds; a symbolic condition becomes a guard or a run-time assertion.

    torch.export has one graph for all sizes and no other for those that a guard excludes. So while exporting, sizes
    that stay free are left to the check of the operator when it runs.

    The message is a function because most calls never need it, and forming it would cost more than the checks.
    """
    if condition is True:
        return
    if condition is False:
        raise error(message())
    if torch.compiler.is_exporting():
        from torch.fx.experimental.symbolic_shapes import free_unbacked_symbols  # takes seconds

        if not free_unbacked_symbols(condition):
            return
    torch._check_value(condition, message)


def _dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
