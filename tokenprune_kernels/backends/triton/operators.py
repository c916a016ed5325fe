"""The operators on the Triton backend: dense and packed batches, and the form that a call takes.

Nothing here waits for the device.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from . import configs, kernels, recorded_calls, runtime
from .forms import FORMS, Batch, Form, MaterialisedForm, Output, Tokens, padded
from .forms.base import ROW_ALIGNMENT, with_unit_stride

PLAN_OPTIONS = {"num_warps": 8}
"""Options of the kernel that plans a ragged batch. With fewer warps, the compiler spills on sm_100."""

_LARGEST_D = 2**30
_LARGEST_ITEM = 2**30
_BLOCK_S = 128


def operator(name: str, overload: str) -> Callable[..., Any]:
    """The Triton form of an operator, with the arguments of its declaration."""
    return functools.partial(_OPERATORS[name], with_scores=overload == "scores")


def divprune(x: Tensor, k: int, initial: Tensor | None = None, *, with_scores: bool) -> Any:
    _check_no_initial("divprune", initial)
    return dense("divprune", x, None, k, 0.0, with_scores)


def mmr(
    x: Tensor, relevance: Tensor, k: int, lam: float = 0.5, initial: Tensor | None = None, *, with_scores: bool
) -> Any:
    _check_no_initial("mmr", initial)
    return dense("mmr", x, relevance, k, lam, with_scores)


def idpruner(
    x: Tensor, importance: Tensor, k: int, lam: float = 0.5, initial: Tensor | None = None, *, with_scores: bool
) -> Any:
    _check_no_initial("idpruner", initial)
    return dense("idpruner", x, importance, k, lam, with_scores)


def dpp(x: Tensor, relevance: Tensor, k: int, *, with_scores: bool) -> Any:
    return dense("dpp", x, relevance, k, 0.0, with_scores)


def divprune_varlen(
    x: Tensor, cu_seqlens: Tensor, cu_k: Tensor, total_k: int, max_seqlen: int, *, with_scores: bool
) -> Any:
    return varlen("divprune", x, None, cu_seqlens, cu_k, total_k, max_seqlen, 0.0, with_scores)


def mmr_varlen(
    x: Tensor,
    relevance: Tensor,
    cu_seqlens: Tensor,
    cu_k: Tensor,
    total_k: int,
    max_seqlen: int,
    lam: float = 0.5,
    *,
    with_scores: bool,
) -> Any:
    return varlen("mmr", x, relevance, cu_seqlens, cu_k, total_k, max_seqlen, lam, with_scores)


def idpruner_varlen(
    x: Tensor,
    importance: Tensor,
    cu_seqlens: Tensor,
    cu_k: Tensor,
    total_k: int,
    max_seqlen: int,
    lam: float = 0.5,
    *,
    with_scores: bool,
) -> Any:
    return varlen("idpruner", x, importance, cu_seqlens, cu_k, total_k, max_seqlen, lam, with_scores)


def dpp_varlen(
    x: Tensor, relevance: Tensor, cu_seqlens: Tensor, cu_k: Tensor, total_k: int, max_seqlen: int, *, with_scores: bool
) -> Any:
    return varlen("dpp", x, relevance, cu_seqlens, cu_k, total_k, max_seqlen, 0.0, with_scores)


_OPERATORS: dict[str, Callable[..., Any]] = {
    function.__name__: function
    for function in (divprune, mmr, idpruner, dpp, divprune_varlen, mmr_varlen, idpruner_varlen, dpp_varlen)
}


@dataclass(frozen=True)
class Plan:
    """How a call is carried out.

    Attributes:
        form: a name in `forms.FORMS`.
        kernels: the names of the kernels that each slice launches, in order.
        slice_items: how many items of a dense batch are selected from at once; all segments of a packed one.
        capacity: rows of the workspaces, in units of ``ROW_ALIGNMENT``.
    """

    form: str
    kernels: tuple[str, ...]
    slice_items: int
    capacity: int


def plan(
    method: str,
    shape: Sequence[int],
    dtype: torch.dtype,
    *,
    k: int | None = None,
    segments: int | None = None,
    max_seqlen: int | None = None,
) -> Plan:
    """Tells how a call is carried out under the current settings. Launches nothing.

    Args:
        method: a name in `tokenprune_kernels.methods.METHODS`.
        shape: of the tokens, ``(*, N, D)``, or ``(total rows, D)`` of a packed batch.
        dtype: of the tokens.
        k: of a dense batch; None for all rows. Only the DPP's slices depend on it.
        segments: of a packed batch; None for a dense one.
        max_seqlen: of a packed batch; None for a dense one.

    Example:
        >>> import torch
        >>> from tokenprune_kernels.backends.triton import operators
        >>> operators.plan("divprune", (2880, 4096), torch.bfloat16).form
        'materialised'
    """
    if segments is None or max_seqlen is None:
        count = shape[-2]
        form = _choose_form(method, count, padded(count))
        item_bytes = form.item_bytes(dtype.itemsize, count, count if k is None else k)
        items = min(math.prod(shape[:-2]), max(1, runtime.current().workspace_limit // item_bytes))
        return Plan(form.name, ("row_norm_kernel", *form.kernel_names(method)), items, items * padded(count))
    rows = shape[0]
    longest = min(max_seqlen, rows)
    form = _choose_form(method, longest, _needed_rows(segments, rows, longest))
    names = "plan_kernel", "row_norm_kernel", *form.kernel_names(method)
    return Plan(form.name, names, segments, _ragged_capacity(form, segments, rows, longest))


def forms_of(method: str, longest: int) -> tuple[str, ...]:
    """The forms that calls of a method may take whose items have up to ``longest`` rows, by the number of items."""
    if method == "dpp":
        return ("dpp",)
    smallest = _choose_form(method, longest, padded(longest))
    return ("materialised", "lazy_greedy") if smallest is MaterialisedForm else ("lazy_greedy",)


def dense(method: str, x: Tensor, weight: Tensor | None, k: int, lam: float, with_scores: bool) -> Any:
    """Selects from every item of a dense batch, slice by slice. Only a batch that is one slice is recorded."""

    def select(recorder: recorded_calls.Recorder | None) -> Any:
        count = x.shape[-2]
        _check_sizes(method, "N", count, x.shape[-1])
        out = Output.of((*x.shape[:-2], k), x.device, with_scores, recorder=recorder)
        if out.indices.numel() > 0:
            planned = plan(method, x.shape, x.dtype, k=k)
            flat = with_unit_stride(x.detach()).reshape(-1, count, x.shape[-1])
            items = flat.shape[0]
            tokens = Tokens.of(flat, flat.stride(0) if items > 1 else 0, flat.stride(1) if count > 1 else 0)
            step = planned.slice_items
            recorder = recorder if step >= items else None
            batch = Batch(method, tokens, _contiguous(weight), lam, out, step, count, planned.capacity, recorder)
            with runtime.on_device(flat):
                form = FORMS[planned.form](batch)
                for first in range(0, items, step):
                    form.run(first, min(step, items - first), count=count, k=k, plan=None)
        return out.result()

    inputs = {"x": x} if weight is None else {"x": x, "weight": weight}
    return recorded_calls.call((method, k, lam, with_scores), inputs, select)


def varlen(
    method: str,
    x: Tensor,
    weight: Tensor | None,
    cu_seqlens: Tensor,
    cu_k: Tensor,
    total_k: int,
    max_seqlen: int,
    lam: float,
    with_scores: bool,
) -> Any:
    """Selects from every segment of a packed ragged batch at once.

    Rows of the result that belong to no segment, or to one that breaks the contract, are -1.
    """

    def select(recorder: recorded_calls.Recorder | None) -> Any:
        packed = Tokens.of_rows(x.detach())
        rows, segments = x.shape[0], cu_seqlens.shape[0] - 1
        longest = min(max_seqlen, rows)
        _check_sizes(f"{method}_varlen", "max_seqlen", longest, x.shape[-1])
        out = Output.of((total_k,), x.device, with_scores, blank=True, recorder=recorder)
        if segments > 0 and longest > 0 and total_k > 0:
            planned = plan(method, x.shape, x.dtype, segments=segments, max_seqlen=max_seqlen)
            batch = Batch(method, packed, _contiguous(weight), lam, out, segments, longest, planned.capacity, recorder)
            with runtime.on_device(packed.x):
                form = FORMS[planned.form](batch)
                segment_plan = _launch_plan(form, cu_seqlens, cu_k, rows, total_k)
                form.run(0, segments, count=0, k=0, plan=segment_plan)
        return out.result()

    inputs = {"x": x, "cu_seqlens": cu_seqlens, "cu_k": cu_k} | ({} if weight is None else {"weight": weight})
    return recorded_calls.call((method, total_k, max_seqlen, lam, with_scores), inputs, select)


def _launch_plan(form: Form, cu_seqlens: Tensor, cu_k: Tensor, rows: int, total_k: int) -> Tensor:
    """The plan of a ragged batch, which `plan_kernel` writes on the device."""
    batch = form.batch
    segment_plan = form.workspace(batch.segments + 1, kernels.PLAN_COLUMNS.value, dtype=torch.int64)
    form.launch(
        kernels.plan_kernel,
        1,
        {"cu_seqlens": cu_seqlens.contiguous(), "cu_k": cu_k.contiguous(), "plan": segment_plan},
        {
            "segments": batch.segments,
            "rows": rows,
            "total_k": total_k,
            "max_seqlen": batch.longest,
            "capacity": batch.capacity,
        },
        {"UNIT_N": form.block_n, "TRIANGULAR": form.triangular, "BLOCK_S": _BLOCK_S},
        **PLAN_OPTIONS,
    )
    return segment_plan


def _choose_form(method: str, longest: int, rows: int) -> type[Form]:
    """The form for a slice of ``rows`` workspace rows, in units of ``ROW_ALIGNMENT``."""
    if method == "dpp":
        return FORMS["dpp"]
    current = runtime.current()
    if current.form in ("materialised", "lazy_greedy"):
        return FORMS[current.form]
    similarity_bytes = rows * MaterialisedForm.row_bytes(longest)
    fits = longest <= configs.LARGEST_COUNT and similarity_bytes <= current.workspace_limit
    return FORMS["lazy_greedy" if not fits or configs.lazy_greedy_wins(method, longest) else "materialised"]


def _needed_rows(segments: int, rows: int, longest: int) -> int:
    """The most workspace rows that segments need which do not overlap, in units of ``ROW_ALIGNMENT``."""
    return min(segments * padded(longest), rows // ROW_ALIGNMENT + segments)


def _ragged_capacity(form: type[Form], segments: int, rows: int, longest: int) -> int:
    """The workspace rows of a ragged batch, in units of ``ROW_ALIGNMENT``.

    Within the limit, reserve max_seqlen rows per segment. Then even overlapping segments, which the contract forbids,
    are selected from correctly.
    """
    all_at_their_longest = segments * padded(longest)
    fits = all_at_their_longest * form.row_bytes(longest) <= runtime.current().workspace_limit
    return all_at_their_longest if fits else _needed_rows(segments, rows, longest)


def _check_sizes(name: str, argument: str, count: int, d: int) -> None:
    for what, size, largest in ((argument, count, _LARGEST_ITEM), ("D", d, _LARGEST_D)):
        if size > largest:
            raise ValueError(f"{name}: expected {what} to be at most {largest} on the triton backend, got {size}")


def _check_no_initial(name: str, initial: Tensor | None) -> None:
    if initial is not None:
        raise ValueError(f"{name}: expected initial to be None on the triton backend, got a tensor")


def _contiguous(weight: Tensor | None) -> Tensor | None:
    return None if weight is None else weight.detach().contiguous()
