"""The kept tokens themselves, with their indices."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .calls import select, select_varlen
from .methods import check_method


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
    """Selects tokens by one of the methods and returns them with their indices, differentiable in x.

    DivPrune picks for max-min diversity (Alvar et al., CVPR 2025). MMR weighs relevance against the similarity to the
    picks (Carbonell & Goldstein, SIGIR 1998). IDPruner is MMR on scaled importance (Tan et al., arXiv 2602.13315). The
    DPP maximises the determinant of a kernel of relevance and similarity (Chen et al., NeurIPS 2018). The functions of
    these names state the rules in full.

    Args:
        x: tokens, ``[..., N, D]``, or packed, ``[T, D]``, with ``cu_seqlens`` and ``cu_k``; float16, bfloat16 or
            float32.
        k: how many rows to keep of each item, ``0 <= k <= N``; more are an error, ``min(k, N)`` keeps all. Give either
            k or ``keep_ratio``, and with ``cu_seqlens`` neither.
        keep_ratio: the share of rows to keep, in (0, 1]: ``k = min(N, max(1, round_half_even(keep_ratio * N)))``.
        method: ``"divprune"``, ``"mmr"`` (with ``relevance``), ``"idpruner"`` (with ``importance``) or ``"dpp"`` (with
            ``relevance``).
        relevance: of each token, ``[..., N]`` or ``[T]``, float16, bfloat16, float32 or float64; for ``"mmr"`` and
            ``"dpp"``.
        importance: of each token, likewise; for ``"idpruner"``.
        lam: weight of relevance or importance, in [0, 1]: 1 ranks by it alone, 0 by diversity alone; None stands for
            0.5. For ``"mmr"`` and ``"idpruner"``.
        sorted: True returns ascending indices, as language models consume them, False the order of selection.
        cu_seqlens: int32 ``[S + 1]``, prefix sums of the segment lengths, on the device of x.
        cu_k: int32 ``[S + 1]``, prefix sums of how many rows each segment keeps, on the device of x.
        total_k: the length of the result, at least ``cu_k[S]``. None reads ``cu_k[S]``, which on a GPU waits for the
            device.
        max_seqlen: an upper bound on the segment lengths. None reads their maximum, which on a GPU waits likewise.

    Returns:
        ``(tokens, indices)``: ``[..., k, D]`` of x's dtype and int64 ``[..., k]``. With ``cu_seqlens``,
        ``[total_k, D]`` and ``[total_k]``, the indices being row numbers of x. Where an index is -1, the row is left
        out of both on the CPU. On a GPU, where leaving it out would wait for the device, the token is zero.

    Raises:
        ValueError: an argument has the wrong shape, device or range, or does not belong to the method.
        TypeError: an argument has the wrong dtype, is not a dense tensor, or is a number that is not exact.

    Costs what the method costs, and a copy of the kept tokens.

    Example:
        >>> import torch
        >>> from tokenprune_kernels import prune
        >>> x = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [-1.0, 0.2]])
        >>> tokens, indices = prune(x, 2, method="mmr", relevance=torch.tensor([0.1, 0.9, 0.5, 0.2]))
        >>> indices
        tensor([1, 3])
        >>> torch.equal(tokens, x[indices])
        True
    """
    check_method("prune", method, {"relevance": relevance, "importance": importance}, lam)
    weight = relevance if importance is None else importance
    lam = 0.5 if lam is None else lam
    if cu_seqlens is None:
        for name, value in {"cu_k": cu_k, "total_k": total_k, "max_seqlen": max_seqlen}.items():
            if value is not None:
                raise ValueError(f"prune: expected {name} to be None without cu_seqlens, got {_summary(value)}")
        indices = select(method, x, weight, k, keep_ratio, sorted, lam)
        return rows_at(x, indices), indices
    for name, budget in {"k": k, "keep_ratio": keep_ratio}.items():
        if budget is not None:
            raise ValueError(f"prune: expected {name} to be None with cu_seqlens, got {budget}")
    if cu_k is None:
        raise ValueError("prune: expected cu_k to be a tensor with cu_seqlens, got None")
    return _packed_rows_at(x, select_varlen(method, x, weight, cu_seqlens, cu_k, total_k, max_seqlen, sorted, lam))


def rows_at(x: Tensor, indices: Tensor) -> Tensor:
    """Returns the rows of x ``[..., N, D]`` that the indices ``[..., k]`` number."""
    return x.gather(-2, indices.unsqueeze(-1).expand(*indices.shape, x.shape[-1]))


def _packed_rows_at(x: Tensor, indices: Tensor) -> tuple[Tensor, Tensor]:
    """Returns rows of the packed x and their indices, those at -1 left out on the CPU and zero on a GPU."""
    kept = indices >= 0
    if not x.is_cuda:
        indices = indices[kept]
        return x.index_select(0, indices), indices
    if x.shape[0] == 0:
        return x.new_zeros(indices.shape[0], x.shape[1]), indices
    return torch.where(kept.unsqueeze(-1), x.index_select(0, indices.clamp_min(0)), 0), indices


def _summary(value: Any) -> Any:
    return "a tensor" if isinstance(value, Tensor) else value
