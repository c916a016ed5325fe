"""The Python API: budgets as a count or a ratio, ascending indices, and the kept tokens themselves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, overload

import torch
from torch import Tensor

from . import declaration

_ops = getattr(torch.ops, declaration.NAMESPACE)

_WEIGHT_OF = {"divprune": None, "mmr": "relevance", "idpruner": "importance", "dpp": "relevance"}
_WITH_LAM = ("mmr", "idpruner")


@overload
def divprune(
    x: Tensor,
    k: int | None = ...,
    *,
    keep_ratio: float | None = ...,
    sorted: bool = ...,
    return_scores: Literal[False] = ...,
) -> Tensor: ...
@overload
def divprune(
    x: Tensor, k: int | None = ..., *, keep_ratio: float | None = ..., sorted: bool = ..., return_scores: Literal[True]
) -> tuple[Tensor, Tensor]: ...
def divprune(
    x: Tensor,
    k: int | None = None,
    *,
    keep_ratio: float | None = None,
    sorted: bool = False,
    return_scores: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """The k rows of each item chosen by DivPrune, greedy max-min diversity (Alvar et al., CVPR 2025).

    Args:
        x: tokens, ``[..., N, D]``, float16, bfloat16 or float32.
        k: how many rows to keep, ``0 <= k <= N``; give this or ``keep_ratio``.
        keep_ratio: the share of rows to keep, in (0, 1]:
            ``k = min(N, max(1, round_half_even(keep_ratio * N)))``.
        sorted: ascending indices, as language models consume them, instead of selection order.
        return_scores: also return the float32 score with which each row was picked.

    Returns:
        int64 indices ``[..., k]``, or ``(indices, scores)``.

    Raises:
        ValueError, TypeError: naming the argument, what was expected and what came.

    ``torch.ops.tokenprune.divprune.__doc__`` has the rule of selection and its cost.
    """
    return _select("divprune", (x,), k, keep_ratio, (), sorted, return_scores)


@overload
def mmr(
    x: Tensor,
    relevance: Tensor,
    k: int | None = ...,
    *,
    keep_ratio: float | None = ...,
    lam: float = ...,
    sorted: bool = ...,
    return_scores: Literal[False] = ...,
) -> Tensor: ...
@overload
def mmr(
    x: Tensor,
    relevance: Tensor,
    k: int | None = ...,
    *,
    keep_ratio: float | None = ...,
    lam: float = ...,
    sorted: bool = ...,
    return_scores: Literal[True],
) -> tuple[Tensor, Tensor]: ...
def mmr(
    x: Tensor,
    relevance: Tensor,
    k: int | None = None,
    *,
    keep_ratio: float | None = None,
    lam: float = 0.5,
    sorted: bool = False,
    return_scores: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """The k rows of each item chosen by maximal marginal relevance (Carbonell & Goldstein, SIGIR 1998).

    ``relevance`` is ``[..., N]``, float16 to float64, ``lam`` its share against diversity, in [0, 1]. Everything else
    is as for ``divprune``.
    """
    return _select("mmr", (x, relevance), k, keep_ratio, (lam,), sorted, return_scores)


@overload
def idpruner(
    x: Tensor,
    importance: Tensor,
    k: int | None = ...,
    *,
    keep_ratio: float | None = ...,
    lam: float = ...,
    sorted: bool = ...,
    return_scores: Literal[False] = ...,
) -> Tensor: ...
@overload
def idpruner(
    x: Tensor,
    importance: Tensor,
    k: int | None = ...,
    *,
    keep_ratio: float | None = ...,
    lam: float = ...,
    sorted: bool = ...,
    return_scores: Literal[True],
) -> tuple[Tensor, Tensor]: ...
def idpruner(
    x: Tensor,
    importance: Tensor,
    k: int | None = None,
    *,
    keep_ratio: float | None = None,
    lam: float = 0.5,
    sorted: bool = False,
    return_scores: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """The k rows of each item chosen by IDPruner: MMR on scaled importance (Tan et al., arXiv 2602.13315).

    ``importance`` is ``[..., N]``, float16 to float64, ``lam`` its share against diversity, in [0, 1]. Everything else
    is as for ``divprune``.
    """
    return _select("idpruner", (x, importance), k, keep_ratio, (lam,), sorted, return_scores)


@overload
def dpp(
    x: Tensor,
    relevance: Tensor,
    k: int | None = ...,
    *,
    keep_ratio: float | None = ...,
    sorted: bool = ...,
    return_scores: Literal[False] = ...,
) -> Tensor: ...
@overload
def dpp(
    x: Tensor,
    relevance: Tensor,
    k: int | None = ...,
    *,
    keep_ratio: float | None = ...,
    sorted: bool = ...,
    return_scores: Literal[True],
) -> tuple[Tensor, Tensor]: ...
def dpp(
    x: Tensor,
    relevance: Tensor,
    k: int | None = None,
    *,
    keep_ratio: float | None = None,
    sorted: bool = False,
    return_scores: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """The k rows of each item chosen by greedy inference for a DPP (Chen et al., NeurIPS 2018), as CDPruner does.

    ``relevance`` is ``[..., N]``, float16 to float64, not negative. Everything else is as for ``divprune``. How much
    relevance counts against diversity is up to its spread: ``exp(a * relevance)`` makes it count more for a larger a.
    """
    return _select("dpp", (x, relevance), k, keep_ratio, (), sorted, return_scores)


@overload
def divprune_varlen(
    x: Tensor,
    cu_seqlens: Tensor,
    cu_k: Tensor,
    total_k: int | None = ...,
    max_seqlen: int | None = ...,
    *,
    sorted: bool = ...,
    return_scores: Literal[False] = ...,
) -> Tensor: ...
@overload
def divprune_varlen(
    x: Tensor,
    cu_seqlens: Tensor,
    cu_k: Tensor,
    total_k: int | None = ...,
    max_seqlen: int | None = ...,
    *,
    sorted: bool = ...,
    return_scores: Literal[True],
) -> tuple[Tensor, Tensor]: ...
def divprune_varlen(
    x: Tensor,
    cu_seqlens: Tensor,
    cu_k: Tensor,
    total_k: int | None = None,
    max_seqlen: int | None = None,
    *,
    sorted: bool = False,
    return_scores: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """``divprune`` on each segment of a packed ragged batch.

    Args:
        x: tokens of all segments, ``[T, D]``, float16, bfloat16 or float32.
        cu_seqlens: int32 ``[S + 1]``, prefix sums of the segment lengths, on the device of x.
        cu_k: int32 ``[S + 1]``, prefix sums of how many rows each segment keeps, on the device of x.
        total_k: the length of the result; by default ``cu_k[S]``, which on a GPU waits for the device.
        max_seqlen: an upper bound on the segment lengths; by default their maximum, which on a GPU waits likewise.
        sorted: ascending indices within each segment instead of selection order.
        return_scores: also return the float32 score with which each row was picked.

    Returns:
        int64 row numbers into x, ``[total_k]``, -1 past ``cu_k[S]``, or ``(indices, scores)``.

    Raises:
        ValueError, TypeError: naming the argument, what was expected and what came.
    """
    return _select_varlen("divprune", x, None, cu_seqlens, cu_k, total_k, max_seqlen, (), sorted, return_scores)


@overload
def mmr_varlen(
    x: Tensor,
    relevance: Tensor,
    cu_seqlens: Tensor,
    cu_k: Tensor,
    total_k: int | None = ...,
    max_seqlen: int | None = ...,
    *,
    lam: float = ...,
    sorted: bool = ...,
    return_scores: Literal[False] = ...,
) -> Tensor: ...
@overload
def mmr_varlen(
    x: Tensor,
    relevance: Tensor,
    cu_seqlens: Tensor,
    cu_k: Tensor,
    total_k: int | None = ...,
    max_seqlen: int | None = ...,
    *,
    lam: float = ...,
    sorted: bool = ...,
    return_scores: Literal[True],
) -> tuple[Tensor, Tensor]: ...
def mmr_varlen(
    x: Tensor,
    relevance: Tensor,
    cu_seqlens: Tensor,
    cu_k: Tensor,
    total_k: int | None = None,
    max_seqlen: int | None = None,
    *,
    lam: float = 0.5,
    sorted: bool = False,
    return_scores: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """``mmr`` on each segment of a packed ragged batch; ``relevance`` is ``[T]``, the rest as ``divprune_varlen``."""
    return _select_varlen("mmr", x, relevance, cu_seqlens, cu_k, total_k, max_seqlen, (lam,), sorted, return_scores)


@overload
def idpruner_varlen(
    x: Tensor,
    importance: Tensor,
    cu_seqlens: Tensor,
    cu_k: Tensor,
    total_k: int | None = ...,
    max_seqlen: int | None = ...,
    *,
    lam: float = ...,
    sorted: bool = ...,
    return_scores: Literal[False] = ...,
) -> Tensor: ...
@overload
def idpruner_varlen(
    x: Tensor,
    importance: Tensor,
    cu_seqlens: Tensor,
    cu_k: Tensor,
    total_k: int | None = ...,
    max_seqlen: int | None = ...,
    *,
    lam: float = ...,
    sorted: bool = ...,
    return_scores: Literal[True],
) -> tuple[Tensor, Tensor]: ...
def idpruner_varlen(
    x: Tensor,
    importance: Tensor,
    cu_seqlens: Tensor,
    cu_k: Tensor,
    total_k: int | None = None,
    max_seqlen: int | None = None,
    *,
    lam: float = 0.5,
    sorted: bool = False,
    return_scores: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """``idpruner`` on each segment of a packed ragged batch, importance scaled within each segment.

    ``importance`` is ``[T]``, the rest as ``divprune_varlen``.
    """
    return _select_varlen(
        "idpruner", x, importance, cu_seqlens, cu_k, total_k, max_seqlen, (lam,), sorted, return_scores
    )


@overload
def dpp_varlen(
    x: Tensor,
    relevance: Tensor,
    cu_seqlens: Tensor,
    cu_k: Tensor,
    total_k: int | None = ...,
    max_seqlen: int | None = ...,
    *,
    sorted: bool = ...,
    return_scores: Literal[False] = ...,
) -> Tensor: ...
@overload
def dpp_varlen(
    x: Tensor,
    relevance: Tensor,
    cu_seqlens: Tensor,
    cu_k: Tensor,
    total_k: int | None = ...,
    max_seqlen: int | None = ...,
    *,
    sorted: bool = ...,
    return_scores: Literal[True],
) -> tuple[Tensor, Tensor]: ...
def dpp_varlen(
    x: Tensor,
    relevance: Tensor,
    cu_seqlens: Tensor,
    cu_k: Tensor,
    total_k: int | None = None,
    max_seqlen: int | None = None,
    *,
    sorted: bool = False,
    return_scores: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """``dpp`` on each segment of a packed ragged batch; ``relevance`` is ``[T]``, the rest as ``divprune_varlen``."""
    return _select_varlen("dpp", x, relevance, cu_seqlens, cu_k, total_k, max_seqlen, (), sorted, return_scores)


def prune(
    x: Tensor,
    k: int | None = None,
    *,
    keep_ratio: float | None = None,
    method: str = "divprune",
    relevance: Tensor | None = None,
    importance: Tensor | None = None,
    lam: float | None = None,
    sorted: bool = True,
    cu_seqlens: Tensor | None = None,
    cu_k: Tensor | None = None,
    total_k: int | None = None,
    max_seqlen: int | None = None,
) -> tuple[Tensor, Tensor]:
    """The kept tokens and their indices, differentiable in x.

    Args:
        x: tokens, ``[..., N, D]``, or ``[T, D]`` with ``cu_seqlens`` and ``cu_k``.
        k: how many rows to keep of each item; give this or ``keep_ratio``, neither with ``cu_seqlens``.
        keep_ratio: the share of rows to keep, in (0, 1].
        method: ``"divprune"``, ``"mmr"`` or ``"dpp"`` (need ``relevance``), or ``"idpruner"`` (needs ``importance``).
        relevance: ``[..., N]`` or ``[T]``, for ``"mmr"`` and ``"dpp"``.
        importance: ``[..., N]`` or ``[T]``, for ``"idpruner"``.
        lam: the share of relevance or importance, in [0, 1], by default 0.5; for ``"mmr"`` and ``"idpruner"``.
        sorted: ascending indices, as language models consume them; False keeps selection order.
        cu_seqlens: see ``divprune_varlen``.
        cu_k: see ``divprune_varlen``.
        total_k: see ``divprune_varlen``.
        max_seqlen: see ``divprune_varlen``.

    Returns:
        ``(tokens, indices)``: ``[..., k, D]`` and ``[..., k]``. With ``cu_seqlens``, ``[total_k, D]`` and
        ``[total_k]``; where an index is -1, the row is dropped from both on the CPU and zero-filled on a GPU, where
        dropping it would wait for the device.

    Raises:
        ValueError, TypeError: naming the argument, what was expected and what came.
    """
    weights = {"relevance": relevance, "importance": importance}
    check_method("prune", method, weights, lam)
    weight = relevance if importance is None else importance
    lams = (0.5 if lam is None else lam,) if method in _WITH_LAM else ()
    if cu_seqlens is None:
        for name, value in {"cu_k": cu_k, "total_k": total_k, "max_seqlen": max_seqlen}.items():
            if value is not None:
                raise ValueError(f"prune: expected {name} to be None without cu_seqlens, got {_summary(value)}")
        tensors = (x,) if weight is None else (x, weight)
        indices = _select(method, tensors, k, keep_ratio, lams, sorted, False)
        return rows_at(x, indices), indices
    for name, budget in {"k": k, "keep_ratio": keep_ratio}.items():
        if budget is not None:
            raise ValueError(f"prune: expected {name} to be None with cu_seqlens, got {budget}")
    if cu_k is None:
        raise ValueError("prune: expected cu_k to be a tensor with cu_seqlens, got None")
    indices = _select_varlen(method, x, weight, cu_seqlens, cu_k, total_k, max_seqlen, lams, sorted, False)
    return _gather_packed(x, indices)


def check_method(name: str, method: str, weights: Mapping[str, Any], lam: float | None) -> None:
    """Raises in the name of `name` unless the method is known, has its weight and no other, and no lam without one."""
    if method not in _WEIGHT_OF:
        raise ValueError(f"{name}: expected method to be one of {', '.join(_WEIGHT_OF)}, got {method!r}")
    for argument, weight in weights.items():
        if (weight is None) == (argument == _WEIGHT_OF[method]):
            rule, got = ("a tensor", None) if weight is None else (None, _summary(weight))
            raise ValueError(f"{name}: expected {argument} to be {rule} with method {method!r}, got {got}")
    if method not in _WITH_LAM and lam is not None:
        raise ValueError(f"{name}: expected lam to be None with method {method!r}, got {lam}")


def _summary(value: Any) -> Any:
    return "a tensor" if isinstance(value, Tensor) else value


def rows_at(x: Tensor, indices: Tensor) -> Tensor:
    """The rows of x ``[..., N, D]`` that the indices ``[..., k]`` number."""
    return x.gather(-2, indices.unsqueeze(-1).expand(*indices.shape, x.shape[-1]))


def _gather_packed(x: Tensor, indices: Tensor) -> tuple[Tensor, Tensor]:
    kept = indices >= 0
    if not x.is_cuda:
        indices = indices[kept]
        return x.index_select(0, indices), indices
    if x.shape[0] == 0:
        return x.new_zeros(indices.shape[0], x.shape[1]), indices
    return torch.where(kept.unsqueeze(-1), x.index_select(0, indices.clamp_min(0)), 0), indices


def _check_given(name: str, tensors: Mapping[str | None, Tensor | None]) -> None:
    """Raises in the name of `name` if one of its tensors is None, which the dispatcher would pass over."""
    for argument, tensor in tensors.items():
        if argument is not None and tensor is None:
            raise TypeError(f"{name}: expected {argument} to be a tensor, got None")


def _count(name: str, x: Tensor, k: int | None, keep_ratio: float | None) -> int:
    if (k is None) == (keep_ratio is None):
        raise ValueError(
            f"{name}: expected exactly one of k and keep_ratio to be given, got k={k} and keep_ratio={keep_ratio}"
        )
    if k is not None:
        return k
    if x.dim() < 2:
        declaration.check_tokens(name, x)  # the operator would, but there is no N to take a share of
    return kept_count(name, x.shape[-2], keep_ratio)


def kept_count(name: str, count: int, keep_ratio: Any) -> int:
    """How many of `count` rows a ratio keeps; raises in the name of `name` unless the ratio is in (0, 1]."""
    if not isinstance(keep_ratio, int | float):
        raise TypeError(f"{name}: expected keep_ratio to be a number, got {keep_ratio!r}")
    if not 0.0 < keep_ratio <= 1.0:
        raise ValueError(f"{name}: expected keep_ratio to be in (0, 1], got {keep_ratio:.12g}")
    return min(count, max(1, round(keep_ratio * count)))


def _select(
    method: str,
    tensors: tuple[Tensor, ...],
    k: int | None,
    keep_ratio: float | None,
    lams: tuple[float, ...],
    sorted: bool,
    return_scores: bool,
) -> Any:
    operator = getattr(_ops, method)
    _check_given(method, dict(zip(("x", _WEIGHT_OF[method]), tensors, strict=False)))
    k = _count(method, tensors[0], k, keep_ratio)
    if not return_scores:
        indices = operator(*tensors, k, *lams)
        return indices.sort(dim=-1).values if sorted else indices
    indices, scores = operator.scores(*tensors, k, *lams)
    if sorted:
        indices, order = indices.sort(dim=-1)
        scores = scores.gather(-1, order)
    return indices, scores


def _select_varlen(
    method: str,
    x: Tensor,
    weight: Tensor | None,
    cu_seqlens: Tensor,
    cu_k: Tensor,
    total_k: int | None,
    max_seqlen: int | None,
    lams: tuple[float, ...],
    sorted: bool,
    return_scores: bool,
) -> Any:
    name = f"{method}_varlen"
    _check_given(name, {"x": x, _WEIGHT_OF[method]: weight, "cu_seqlens": cu_seqlens, "cu_k": cu_k})
    tensors = (x,) if weight is None else (x, weight)
    if total_k is None or max_seqlen is None:
        # The prefix sums are read here, before the operator has had a chance to check their shapes.
        declaration.OPERATORS[name](*tensors, cu_seqlens, cu_k, total_k or 0, max_seqlen or 0, *lams)
        if total_k is None:
            total_k = max(0, int(cu_k[-1]))
        if max_seqlen is None:
            max_seqlen = max([0, *cu_seqlens.diff().tolist()])
    arguments = (*tensors, cu_seqlens, cu_k, total_k, max_seqlen, *lams)
    operator = getattr(_ops, name)
    indices, scores = operator.scores(*arguments) if return_scores else (operator(*arguments), None)
    if sorted:
        order = _ascending_within_segments(indices, cu_k, x.shape[0])
        indices = indices[order]
        scores = None if scores is None else scores[order]
    return (indices, scores) if return_scores else indices


def _ascending_within_segments(indices: Tensor, cu_k: Tensor, rows: int) -> Tensor:
    """The order that sorts each segment's slots, -1 last among them, without moving a slot to another segment."""
    slots = torch.arange(indices.shape[0], device=indices.device, dtype=cu_k.dtype)
    segment = torch.searchsorted(cu_k.contiguous(), slots, right=True)
    return (segment * (rows + 1) + torch.where(indices < 0, rows, indices)).argsort(stable=True)
