"""How the Python functions call their operators: budgets, capacities and the order of the result."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from . import declaration
from .checks import check_tokens
from .methods import METHODS

_ops = getattr(torch.ops, declaration.NAMESPACE)


def kept_count(name: str, count: int, keep_ratio: Any) -> int:
    """Returns how many of `count` rows a ratio keeps: ``min(count, max(1, round_half_even(keep_ratio * count)))``.

    Raises:
        TypeError, ValueError: in the name of `name`, unless the ratio is a number in (0, 1].
    """
    if not isinstance(keep_ratio, int | float):
        raise TypeError(f"{name}: expected keep_ratio to be a number, got {keep_ratio!r}")
    if not 0.0 < keep_ratio <= 1.0:
        raise ValueError(f"{name}: expected keep_ratio to be in (0, 1], got {keep_ratio:.12g}")
    return min(count, max(1, round(keep_ratio * count)))


def select(
    method: str,
    x: Tensor,
    weight: Tensor | None,
    k: int | None,
    keep_ratio: float | None,
    sorted: bool,
    lam: float = 0.5,
) -> Tensor:
    """Returns the rows that the operator `method` keeps of each item of x ``[..., N, D]``."""
    _check_given(method, {"x": x, METHODS[method].weight: weight})
    k = _budget(method, x, k, keep_ratio)
    indices: Tensor = getattr(_ops, method)(*METHODS[method].arguments(x, weight, (k,), lam))
    return indices.sort(dim=-1).values if sorted else indices


def select_varlen(
    method: str,
    x: Tensor,
    weight: Tensor | None,
    cu_seqlens: Tensor,
    cu_k: Tensor,
    total_k: int | None,
    max_seqlen: int | None,
    sorted: bool,
    lam: float = 0.5,
) -> Tensor:
    """Returns the rows that the varlen operator of `method` keeps of each segment of x ``[T, D]``."""
    name = f"{method}_varlen"
    _check_given(name, {"x": x, METHODS[method].weight: weight, "cu_seqlens": cu_seqlens, "cu_k": cu_k})
    if total_k is None or max_seqlen is None:
        # The prefix sums are read here, before the operator can check their shapes.
        budget: tuple[Any, ...] = (cu_seqlens, cu_k, total_k or 0, max_seqlen or 0)
        declaration.OPERATORS[name](*METHODS[method].arguments(x, weight, budget, lam))
        if total_k is None:
            total_k = max(0, int(cu_k[-1]))
        if max_seqlen is None:
            max_seqlen = max([0, *cu_seqlens.diff().tolist()])
    budget = (cu_seqlens, cu_k, total_k, max_seqlen)
    indices: Tensor = getattr(_ops, name)(*METHODS[method].arguments(x, weight, budget, lam))
    return _ascending_in_segments(indices, cu_k, x.shape[0]) if sorted else indices


def _check_given(name: str, tensors: Mapping[str | None, Tensor | None]) -> None:
    """Raises in the name of `name` if one of its tensors is None, which the dispatcher would accept.

    The key None stands for the weight of a method that has none.
    """
    for argument, tensor in tensors.items():
        if argument is not None and tensor is None:
            raise TypeError(f"{name}: expected {argument} to be a tensor, got None")


def _budget(name: str, x: Tensor, k: int | None, keep_ratio: float | None) -> int:
    if (k is None) == (keep_ratio is None):
        raise ValueError(
            f"{name}: expected exactly one of k and keep_ratio to be given, got k={k} and keep_ratio={keep_ratio}"
        )
    if k is not None:
        return k
    if x.dim() < 2:
        check_tokens(name, x)  # the operator would, but there is no N to take a share of
    return kept_count(name, x.shape[-2], keep_ratio)


def _ascending_in_segments(indices: Tensor, cu_k: Tensor, rows: int) -> Tensor:
    """Returns the indices ``[total_k]`` ascending within each segment, -1 last."""
    places = torch.arange(indices.shape[0], device=indices.device, dtype=cu_k.dtype)
    segment = torch.searchsorted(cu_k.contiguous(), places, right=True)
    keys = segment * (rows + 1) + torch.where(indices < 0, rows, indices)
    return indices[keys.argsort(stable=True)]
