"""How the Python functions call their operators: budgets, capacities and the order of the result."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from . import declaration, sharding
from .arguments import check_tensor, exact_integer, number
from .checks import check_tokens
from .methods import METHODS

_ops = getattr(torch.ops, declaration.NAMESPACE)


def kept_count(name: str, count: int, keep_ratio: Any) -> int:
    """Returns how many of `count` rows a ratio keeps: ``min(count, max(1, round_half_even(keep_ratio * count)))``.

    Raises:
        TypeError, ValueError: in the name of `name`, unless the ratio is a number in (0, 1].
    """
    keep_ratio = number(name, "keep_ratio", keep_ratio)
    if not 0.0 < keep_ratio <= 1.0:
        raise ValueError(f"{name}: expected keep_ratio to be in (0, 1], got {keep_ratio:.12g}")
    # What torch.export can save, so that N may stay free: no round, no floor, and no comparison that would be a guard.
    doubled = 2.0 * keep_ratio * torch.sym_float(count)
    halves = torch.sym_int(doubled)
    whole = torch.sym_int(1.0 - (doubled - torch.sym_float(halves)))  # 1 where nothing is cut off
    down = whole * (halves % 2) * (1 - halves % 4 // 2)  # 1 for a half above an even number
    return torch.sym_min(count, torch.sym_max(1, (halves + 1) // 2 - down))


def select(
    method: str,
    x: Tensor,
    weight: Tensor | None,
    k: int | None,
    keep_ratio: float | None,
    sorted: bool,
    lam: float = 0.5,
    initial: Tensor | None = None,
) -> Tensor:
    """Returns the rows that the operator `method` keeps of each item of x ``[..., N, D]``."""
    _check_given(method, {"x": x, METHODS[method].weight: weight, **({} if initial is None else {"initial": initial})})
    if initial is not None and keep_ratio is not None:
        raise ValueError(f"{method}: expected keep_ratio to be None with initial, got {keep_ratio}")
    k, lam = _budget(method, x, k, keep_ratio, initial), number(method, "lam", lam)
    indices: Tensor = getattr(_ops, method)(*METHODS[method].arguments(x, weight, (k,), lam, initial))
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
    lam = number(name, "lam", lam)
    total_k, max_seqlen = (
        each if each is None else exact_integer(name, argument, each)
        for argument, each in (("total_k", total_k), ("max_seqlen", max_seqlen))
    )
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


def _check_given(name: str, tensors: Mapping[str | None, Any]) -> None:
    """Raises in the name of `name` unless its tensors are such. The key None is the weight of a method without one."""
    for argument, tensor in tensors.items():
        if argument is not None:
            check_tensor(name, argument, tensor)
            if type(tensor).__name__ == "DTensor":
                sharding.register()


def _budget(name: str, x: Tensor, k: Any, keep_ratio: Any, initial: Tensor | None) -> int:
    if (k is None) == (keep_ratio is None):
        raise ValueError(
            f"{name}: expected exactly one of k and keep_ratio to be given, got k={k} and keep_ratio={keep_ratio}"
        )
    if x.dim() < 2:
        check_tokens(name, x)  # the operator would, but N has to be known here
    if k is None:
        return kept_count(name, x.shape[-2], keep_ratio)
    k = exact_integer(name, "k", k)
    if initial is not None:
        return k
    if not torch.compiler.is_compiling() and not 0 <= k <= x.shape[-2]:  # the operator says the same, without the hint
        raise ValueError(
            f"{name}: expected k to be in [0, N] with N = {x.shape[-2]}, got {k}"
            f"{' (min(k, N) keeps all)' if k > 0 else ''}"
        )
    return k


def _ascending_in_segments(indices: Tensor, cu_k: Tensor, rows: int) -> Tensor:
    """Returns the indices ``[total_k]`` ascending within each segment, -1 last."""
    places = torch.arange(indices.shape[0], device=indices.device, dtype=cu_k.dtype)
    segment = torch.searchsorted(cu_k.contiguous(), places, right=True)
    keys = segment * (rows + 1) + torch.where(indices < 0, rows, indices)
    return indices[keys.argsort(stable=True)]
