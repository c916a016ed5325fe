"""The declaration of every operator: schema, checks, result shape and documentation, once.

A declared function takes the operator's arguments, checks them and returns the shape of its result. From it come the
overloads ``tokenprune::NAME`` (the kept indices) and ``tokenprune::NAME.scores`` (the indices and the float32 score
each pick won with), their fakes, and their implementations, which pick a backend at run time. ``setup.py`` reads
``NAMESPACE`` and the decorators below as literals to define the same operators for the compiled backends.

The similarity of two rows is ``<x_i, x_j> / (max(|x_i|, 1e-12) * max(|x_j|, 1e-12))``, with float32 accumulation over
the raw inputs; ``distance = 1 - similarity``. Ties go to the lowest index. A row is non-finite when an element, its
float32 sum of squares or its importance is; such rows influence no other row and come last, lowest index first, with
score -inf.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from . import dispatch

NAMESPACE = "tokenprune"

OPERATORS: dict[str, Callable[..., tuple[int, ...]]] = {}

_TOKEN_DTYPES = (torch.float16, torch.bfloat16, torch.float32)
_WEIGHT_DTYPES = (*_TOKEN_DTYPES, torch.float64)

_library = torch.library.Library(NAMESPACE, "DEF")


def _operator(arguments: str) -> Callable[[Callable[..., tuple[int, ...]]], Callable[..., tuple[int, ...]]]:
    """Declares the operator named like the decorated function, with the given schema arguments."""

    def declare(result_shape: Callable[..., tuple[int, ...]]) -> Callable[..., tuple[int, ...]]:
        name = result_shape.__name__
        OPERATORS[name] = result_shape
        _declare_overload(name, "", f"({arguments}) -> Tensor", result_shape)
        _declare_overload(name, "scores", f"({arguments}) -> (Tensor indices, Tensor scores)", result_shape)
        getattr(getattr(torch.ops, NAMESPACE), name).__doc__ = result_shape.__doc__
        return result_shape

    return declare


def _declare_overload(name: str, overload: str, schema: str, result_shape: Callable[..., tuple[int, ...]]) -> None:
    qualified = f"{name}.{overload}" if overload else name
    which = overload or "default"

    def implementation(*args: Any) -> Any:
        result_shape(*args)
        return dispatch.operator(name, which, args[0].device.type)(*args)

    def fake(*args: Any) -> Any:
        shape = result_shape(*args)
        indices = args[0].new_empty(shape, dtype=torch.int64)
        return (indices, args[0].new_empty(shape, dtype=torch.float32)) if overload else indices

    _library.define(qualified + schema, tags=(torch.Tag.pt2_compliant_tag, torch.Tag.flexible_layout))
    _library.impl(qualified, implementation, "CPU")
    _library.impl(qualified, implementation, "CUDA")
    _library.impl(qualified, torch.library.fallthrough_kernel, "Autograd")  # selections have no gradient
    torch.library.register_fake(f"{NAMESPACE}::{qualified}", fake, lib=_library)
    for namespace in dispatch.compiled_namespaces():
        if _compiled_schema(namespace, name, which) != qualified + schema:
            dispatch.refuse(namespace, f"the extension declares {qualified} otherwise; rebuild it")
        else:
            torch.library.register_fake(f"{namespace}::{qualified}", fake)


def _compiled_schema(namespace: str, name: str, overload: str) -> str | None:
    """The schema that a compiled backend registered, without its namespace; None where there is none."""
    try:
        return str(getattr(getattr(getattr(torch.ops, namespace), name), overload)._schema).partition("::")[2]
    except AttributeError:
        return None


def _require(condition: Any, message: Callable[[], str], error: type[Exception] = ValueError) -> None:
    """Raises `error` unless the condition holds; a symbolic condition becomes a guard or a run-time assertion.

    The message is a function because most calls never need it, and forming it would cost more than the checks.
    """
    if condition is True:
        return
    if condition is False:
        raise error(message())
    torch._check_value(condition, message)


def _dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


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


def _dense(operator: str, x: Tensor, k: int, lam: float = 0.0, **weights: Tensor) -> tuple[int, ...]:
    check_tokens(operator, x)
    for name, weight in weights.items():
        _check_weight(operator, name, weight, x)

    def message() -> str:
        return f"{operator}: expected k to be in [0, N] with N = {x.shape[-2]}, got {k}"

    _require(k >= 0, message)
    _require(k <= x.shape[-2], message)
    _check_lam(operator, lam)
    return (*x.shape[:-2], k)


def _varlen(
    operator: str,
    x: Tensor,
    cu_seqlens: Tensor,
    cu_k: Tensor,
    total_k: int,
    max_seqlen: int,
    lam: float = 0.0,
    **weights: Tensor,
) -> tuple[int, ...]:
    check_tokens(operator, x, varlen=True)
    for name, weight in weights.items():
        _check_weight(operator, name, weight, x)
    _check_prefix_sums(operator, cu_seqlens, cu_k, x)
    _check_capacity(operator, "total_k", total_k)
    _check_capacity(operator, "max_seqlen", max_seqlen)
    _check_lam(operator, lam)
    return (total_k,)


@_operator("Tensor x, SymInt k")
def divprune(x: Tensor, k: int) -> tuple[int, ...]:
    """DivPrune: greedy max-min diversity (Alvar et al., CVPR 2025, arXiv 2503.02175, section 3).

    First the row whose nearest other row is farthest, then repeatedly the unselected row whose nearest selected row is
    farthest, in cosine distance.

    Args:
        x: tokens, ``[..., N, D]``, D >= 1, float16, bfloat16 or float32, any strides.
        k: how many rows to keep of each item, ``0 <= k <= N``.

    Returns:
        int64 ``[..., k]``: the kept rows of each item in selection order. ``.scores`` adds float32 ``[..., k]``: the
        distance with which each row was picked (+inf for the first pick beside no other finite row).

    Raises:
        ValueError, TypeError: naming the argument, what was expected and what came.

    Takes O(N^2 D) operations for the first pick and O(N k D) for the others. On the CPU, takes O(N) memory
    beside x, and a copy of x where its last stride is not 1.
    """
    return _dense("divprune", x, k)


@_operator("Tensor x, Tensor relevance, SymInt k, float lam=0.5")
def mmr(x: Tensor, relevance: Tensor, k: int, lam: float = 0.5) -> tuple[int, ...]:
    """Maximal marginal relevance (Carbonell & Goldstein, SIGIR 1998, section 2).

    First the most relevant row, then repeatedly the unselected row with the largest
    ``lam * relevance - (1 - lam) * max similarity to the selected rows``.

    Args:
        x: tokens, ``[..., N, D]``, D >= 1, float16, bfloat16 or float32, any strides.
        relevance: ``[..., N]``, float16, bfloat16, float32 or float64, turned into float32.
        k: how many rows to keep of each item, ``0 <= k <= N``.
        lam: the share of relevance, in [0, 1]; a constant of a compiled graph.

    Returns:
        int64 ``[..., k]``: the kept rows of each item in selection order. ``.scores`` adds float32 ``[..., k]``: the
        relevance of the first pick and the marginal relevance of the others.

    Raises:
        ValueError, TypeError: naming the argument, what was expected and what came.

    Takes O(N k D) operations; memory as for ``divprune``.
    """
    return _dense("mmr", x, k, lam, relevance=relevance)


@_operator("Tensor x, Tensor importance, SymInt k, float lam=0.5")
def idpruner(x: Tensor, importance: Tensor, k: int, lam: float = 0.5) -> tuple[int, ...]:
    """IDPruner: MMR on scaled importance (Tan et al., arXiv 2602.13315, section 3).

    MMR with ``relevance = (w - min w) / (max w - min w + 1e-6)``, minimum and maximum over the finite rows of the
    item; 0 everywhere if the range overflows float32.

    Args:
        x: tokens, ``[..., N, D]``, D >= 1, float16, bfloat16 or float32, any strides.
        importance: ``[..., N]``, float16, bfloat16, float32 or float64, turned into float32.
        k: how many rows to keep of each item, ``0 <= k <= N``.
        lam: the share of importance, in [0, 1]; a constant of a compiled graph.

    Returns:
        int64 ``[..., k]``: the kept rows of each item in selection order. ``.scores`` adds float32 ``[..., k]``, as
        for ``mmr``.

    Raises:
        ValueError, TypeError: naming the argument, what was expected and what came.

    Takes O(N k D) operations; memory as for ``divprune``.
    """
    return _dense("idpruner", x, k, lam, importance=importance)


@_operator("Tensor x, Tensor cu_seqlens, Tensor cu_k, SymInt total_k, SymInt max_seqlen")
def divprune_varlen(x: Tensor, cu_seqlens: Tensor, cu_k: Tensor, total_k: int, max_seqlen: int) -> tuple[int, ...]:
    """``divprune`` on each segment of a packed ragged batch.

    Args:
        x: tokens of all segments, ``[T, D]``, D >= 1, float16, bfloat16 or float32, any strides.
        cu_seqlens: int32 ``[S + 1]``, prefix sums of the segment lengths, on the device of x.
        cu_k: int32 ``[S + 1]``, prefix sums of how many rows each segment keeps, on the device of x.
        total_k: the length of the result, at least ``cu_k[S]``.
        max_seqlen: an upper bound on the segment lengths.

    Returns:
        int64 ``[total_k]``: row numbers into the packed x, segment by segment, each in selection order; -1 past
        ``cu_k[S]``. ``.scores`` adds float32 ``[total_k]``, -inf past ``cu_k[S]``.

    Raises:
        ValueError, TypeError: naming the argument, what was expected and what came. Contents of ``cu_seqlens`` and
            ``cu_k`` that break these rules are an error on the CPU; on a GPU the slots of that segment are -1 (where
            it keeps more rows than it has, the surplus only).
    """
    return _varlen("divprune_varlen", x, cu_seqlens, cu_k, total_k, max_seqlen)


@_operator(
    "Tensor x, Tensor relevance, Tensor cu_seqlens, Tensor cu_k, SymInt total_k, SymInt max_seqlen, float lam=0.5"
)
def mmr_varlen(
    x: Tensor,
    relevance: Tensor,
    cu_seqlens: Tensor,
    cu_k: Tensor,
    total_k: int,
    max_seqlen: int,
    lam: float = 0.5,
) -> tuple[int, ...]:
    """``mmr`` on each segment of a packed ragged batch.

    ``relevance`` is ``[T]``, the other arguments, the result and the errors are those of ``divprune_varlen`` and
    ``mmr``.
    """
    return _varlen("mmr_varlen", x, cu_seqlens, cu_k, total_k, max_seqlen, lam, relevance=relevance)


@_operator(
    "Tensor x, Tensor importance, Tensor cu_seqlens, Tensor cu_k, SymInt total_k, SymInt max_seqlen, float lam=0.5"
)
def idpruner_varlen(
    x: Tensor,
    importance: Tensor,
    cu_seqlens: Tensor,
    cu_k: Tensor,
    total_k: int,
    max_seqlen: int,
    lam: float = 0.5,
) -> tuple[int, ...]:
    """``idpruner`` on each segment of a packed ragged batch, importance scaled within each segment.

    ``importance`` is ``[T]``, the other arguments, the result and the errors are those of ``divprune_varlen`` and
    ``idpruner``.
    """
    return _varlen("idpruner_varlen", x, cu_seqlens, cu_k, total_k, max_seqlen, lam, importance=importance)


@_operator("Tensor x, Tensor relevance, SymInt k")
def dpp(x: Tensor, relevance: Tensor, k: int) -> tuple[int, ...]:
    """Greedy MAP inference for a determinantal point process (Chen et al., NeurIPS 2018, arXiv 1709.05135, section 4).

    The kernel is ``L_ij = relevance_i * similarity_ij * relevance_j``, as in CDPruner (Zhang et al., arXiv 2506.10967,
    section 3). First the row with the largest ``L_ii``, then repeatedly the unselected row that multiplies the
    determinant of the selected rows' kernel by most. That factor is the row's gain. Gains below ``2e-5 * max L_ii``
    count as zero: where none is left, the lowest index comes first.

    Args:
        x: tokens, ``[..., N, D]``, D >= 1, float16, bfloat16 or float32, any strides.
        relevance: ``[..., N]``, float16, bfloat16, float32 or float64, turned into float32; not negative.
        k: how many rows to keep of each item, ``0 <= k <= N``.

    Returns:
        int64 ``[..., k]``: the kept rows of each item in selection order. ``.scores`` adds float32 ``[..., k]``: the
        gain with which each row was picked.

    Raises:
        ValueError, TypeError: naming the argument, what was expected and what came. A negative relevance is an error on
            the CPU and counts as 0 on a GPU.

    Takes O(N k (D + k)) operations. On the CPU, takes O(N k) memory, as far as rows are compared with the picks.
    """
    return _dense("dpp", x, k, relevance=relevance)


@_operator("Tensor x, Tensor relevance, Tensor cu_seqlens, Tensor cu_k, SymInt total_k, SymInt max_seqlen")
def dpp_varlen(
    x: Tensor, relevance: Tensor, cu_seqlens: Tensor, cu_k: Tensor, total_k: int, max_seqlen: int
) -> tuple[int, ...]:
    """``dpp`` on each segment of a packed ragged batch.

    ``relevance`` is ``[T]``, the other arguments, the result and the errors are those of ``divprune_varlen`` and
    ``dpp``.
    """
    return _varlen("dpp_varlen", x, cu_seqlens, cu_k, total_k, max_seqlen, relevance=relevance)
