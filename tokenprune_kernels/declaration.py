"""The declaration of every operator: schema, checks, result shape and documentation, once.

A declared function takes the operator's arguments, checks them and returns the shape of its result. From it come the
overloads ``tokenprune::NAME`` (the kept indices) and ``tokenprune::NAME.scores`` (the indices and the float32 score
with which each was picked), their fakes, and their implementations, which pick a backend at run time. The docstring of
a declared function says what only this operator does; ``operator_docs`` adds what all of them share. ``setup.py`` reads
``NAMESPACE`` and the decorators below as literals to define the same operators for the compiled backends.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from . import dispatch
from .checks import check_dense, check_varlen
from .operator_docs import document
from .registration import Operators

NAMESPACE = "tokenprune"

OPERATORS: dict[str, Callable[..., tuple[int, ...]]] = {}

_operators = Operators(NAMESPACE)


def _operator(arguments: str) -> Callable[[Callable[..., tuple[int, ...]]], Callable[..., tuple[int, ...]]]:
    """Declares the operator named like the decorated function, with the given schema arguments."""

    def declare(result_shape: Callable[..., tuple[int, ...]]) -> Callable[..., tuple[int, ...]]:
        name = result_shape.__name__
        OPERATORS[name] = result_shape
        _declare_overload(name, "", f"({arguments}) -> Tensor", result_shape)
        _declare_overload(name, "scores", f"({arguments}) -> (Tensor indices, Tensor scores)", result_shape)
        dense = OPERATORS[name.removesuffix("_varlen")] if name.endswith("_varlen") else None
        getattr(getattr(torch.ops, NAMESPACE), name).__doc__ = document(result_shape, dense)
        return result_shape

    return declare


def _declare_overload(name: str, overload: str, schema: str, result_shape: Callable[..., tuple[int, ...]]) -> None:
    qualified = f"{name}.{overload}" if overload else name
    which = overload or "default"

    def implementation(*args: Any) -> Any:
        result_shape(*args)
        return dispatch.operator(name, which, args[0].device.type)(*args)

    def fake(*args: Any) -> Any:
        *leading, k = result_shape(*args)
        shape = (*leading, _free_size(k))
        indices = args[0].new_empty(shape, dtype=torch.int64)
        return (indices, args[0].new_empty(shape, dtype=torch.float32)) if overload else indices

    _operators.define(qualified, schema, implementation, fake)
    dispatch.declare(name, which, qualified + schema, fake)


def _free_size(k: int) -> int:
    """The number of results on fake tensors: k, or while exporting a number that torch asks no question about.

    A number worked out from a free N, such as ``N // 10``, is 0 or 1 for some N, and torch would have them excluded.
    """
    if isinstance(k, torch.SymInt) and torch.compiler.is_exporting() and not k.node.expr.is_symbol:
        return torch.library.get_ctx().new_dynamic_size()
    return k


@_operator("Tensor x, SymInt k, Tensor? initial=None")
def divprune(x: Tensor, k: int, initial: Tensor | None = None) -> tuple[int, ...]:
    """DivPrune: greedy max-min diversity.

    First the row whose nearest other row is farthest, then repeatedly the unselected row whose nearest selected row is
    farthest, in cosine distance. Scores are these distances, +inf for a first pick beside no other finite row.

    Takes O(N^2 D) operations for the first pick and O(N k D) for the others. On the CPU, takes
    O(N + k D) memory beside x, and a copy of x where its last stride is not 1.
    """
    return check_dense("divprune", x, k, initial=initial)


@_operator("Tensor x, Tensor relevance, SymInt k, float lam=0.5, Tensor? initial=None")
def mmr(x: Tensor, relevance: Tensor, k: int, lam: float = 0.5, initial: Tensor | None = None) -> tuple[int, ...]:
    """Maximal marginal relevance, MMR.

    First the most relevant row, then repeatedly the unselected row with the largest
    ``lam * relevance - (1 - lam) * max similarity to the selected rows``. Scores are the relevance of the first pick
    and that expression for the others.

    Takes O(N k D) operations. On the CPU, takes O(N + k D) memory beside x, and a
    copy of x where its last stride is not 1.
    """
    return check_dense("mmr", x, k, lam, initial, relevance=relevance)


@_operator("Tensor x, Tensor importance, SymInt k, float lam=0.5, Tensor? initial=None")
def idpruner(x: Tensor, importance: Tensor, k: int, lam: float = 0.5, initial: Tensor | None = None) -> tuple[int, ...]:
    """IDPruner: MMR on scaled importance.

    Relevance is ``(w - min w) / (max w - min w + 1e-6)`` for importance w, minimum and maximum over the finite rows of
    the item; 0 everywhere if the range overflows float32. First the most relevant row, then repeatedly the unselected
    row with the largest ``lam * relevance - (1 - lam) * max similarity to the selected rows``. Scores are the relevance
    of the first pick and that expression for the others.

    Takes O(N k D) operations. On the CPU, takes O(N + k D) memory beside x, and a
    copy of x where its last stride is not 1.
    """
    return check_dense("idpruner", x, k, lam, initial, importance=importance)


@_operator("Tensor x, Tensor relevance, SymInt k")
def dpp(x: Tensor, relevance: Tensor, k: int) -> tuple[int, ...]:
    """Greedy MAP inference for a determinantal point process, DPP, as in CDPruner (arXiv 2506.10967, section 3).

    The kernel is ``L_ij = relevance_i * similarity_ij * relevance_j``. First the row with the largest ``L_ii``, then
    repeatedly the unselected row i with the largest gain ``det(L_{S+i}) / det(L_S)``, S being the selected rows. Gains
    below ``2e-5 * max L_ii`` count as zero: where none is left, the lowest index comes first. Scores are the gains. A
    negative relevance is an error on the CPU and counts as 0 on a GPU.

    Takes O(N k (D + k)) operations. On the CPU, takes O(N k) memory, as far as rows are compared with the picks.
    """
    return check_dense("dpp", x, k, relevance=relevance)


@_operator("Tensor x, Tensor cu_seqlens, Tensor cu_k, SymInt total_k, SymInt max_seqlen")
def divprune_varlen(x: Tensor, cu_seqlens: Tensor, cu_k: Tensor, total_k: int, max_seqlen: int) -> tuple[int, ...]:
    """``divprune`` on each segment of a packed ragged batch."""
    return check_varlen("divprune_varlen", x, cu_seqlens, cu_k, total_k, max_seqlen)


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
    """``mmr`` on each segment of a packed ragged batch."""
    return check_varlen("mmr_varlen", x, cu_seqlens, cu_k, total_k, max_seqlen, lam, relevance=relevance)


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
    """``idpruner`` on each segment of a packed ragged batch."""
    return check_varlen("idpruner_varlen", x, cu_seqlens, cu_k, total_k, max_seqlen, lam, importance=importance)


@_operator("Tensor x, Tensor relevance, Tensor cu_seqlens, Tensor cu_k, SymInt total_k, SymInt max_seqlen")
def dpp_varlen(
    x: Tensor, relevance: Tensor, cu_seqlens: Tensor, cu_k: Tensor, total_k: int, max_seqlen: int
) -> tuple[int, ...]:
    """``dpp`` on each segment of a packed ragged batch."""
    return check_varlen("dpp_varlen", x, cu_seqlens, cu_k, total_k, max_seqlen, relevance=relevance)
