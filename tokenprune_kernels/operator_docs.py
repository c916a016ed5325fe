"""The operators' docstrings: what the declaration says of each method, and the sections that all of them share."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from .methods import METHODS

_CONVENTIONS = """\
The similarity of two rows is ``<x_i, x_j> / (max(|x_i|, 1e-12) * max(|x_j|, 1e-12))``, accumulated in float32 over the
raw inputs; their distance is ``1 - similarity``. Ties go to the lowest index. A row is non-finite when an element, its
float32 sum of squares, its relevance or its importance is; such rows influence no other row and come last, lowest index
first, with score -inf."""

_LAM = """\
weight of {weight}, in [0, 1]: 1 ranks by {weight} alone, 0 by diversity alone. A constant of a compiled
        graph."""
_WEIGHT = "of each token, ``{shape}``, float16, bfloat16, float32 or float64, turned into float32."
_INITIAL = """\
rows of each item that count as selected before the first pick, int64 ``[..., M]``, different ones in any
        order, on the device of x; None for none. The picks come after them, ``0 <= k <= N - M``. Not on the triton
        backend."""

_ARGUMENTS = {
    "x": "tokens, ``[..., N, D]``, D >= 1, float16, bfloat16 or float32, any strides.",
    "relevance": _WEIGHT.format(shape="[..., N]"),
    "importance": _WEIGHT.format(shape="[..., N]"),
    "k": "how many rows to keep of each item, ``0 <= k <= N``.",
    "lam": _LAM,
    "initial": _INITIAL,
}
_VARLEN_ARGUMENTS = {
    "x": "tokens of all segments, ``[T, D]``, D >= 1, float16, bfloat16 or float32, any strides.",
    "relevance": _WEIGHT.format(shape="[T]"),
    "importance": _WEIGHT.format(shape="[T]"),
    "cu_seqlens": "int32 ``[S + 1]``, prefix sums of the segment lengths, on the device of x.",
    "cu_k": "int32 ``[S + 1]``, prefix sums of how many rows each segment keeps, on the device of x.",
    "total_k": "the length of the result, at least ``cu_k[S]``.",
    "max_seqlen": "an upper bound on the segment lengths.",
    "lam": _LAM,
}

_RESULT = """\
Returns:
    int64 ``[..., k]``: the kept rows of each item in selection order. ``.scores`` also returns float32 ``[..., k]``,
    the score with which each row was picked.

Raises:
    ValueError, TypeError: naming the argument, what was expected and what came."""
_VARLEN_RESULT = """\
Returns:
    int64 ``[total_k]``: row numbers of the packed x, segment by segment, each in selection order; -1 from ``cu_k[S]``
    on. ``.scores`` also returns float32 ``[total_k]``, the score with which each row was picked; -inf from ``cu_k[S]``
    on.

Raises:
    ValueError, TypeError: naming the argument, what was expected and what came. Contents of ``cu_seqlens`` and ``cu_k``
        that break these rules are an error on the CPU. On a GPU, the results of that segment are -1; where it keeps
        more rows than it has, only the surplus ones are."""


def document(declared: Callable[..., Any], dense: Callable[..., Any] | None = None) -> str:
    """Returns the whole docstring of an operator.

    Args:
        declared: its declaration, whose docstring has the rule, the scores and the cost.
        dense: for a varlen operator, the declaration of the operator that it runs on each segment.
    """
    name = (dense or declared).__name__
    prose = [inspect.cleandoc(function.__doc__ or "") for function in (declared, dense) if function]
    described = _VARLEN_ARGUMENTS if dense else _ARGUMENTS
    arguments = [
        f"    {argument}: {described[argument].format(weight=METHODS[name].weight)}"
        for argument in inspect.signature(declared).parameters
    ]
    sections = [*prose, _CONVENTIONS, "\n".join(["Args:", *arguments]), _VARLEN_RESULT if dense else _RESULT]
    return "\n\n".join([*sections, f"Source: {METHODS[name].source}."])
