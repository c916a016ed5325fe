"""The first pick by relevance alone."""

import triton
import triton.language as tl

from .scores import NON_FINITE, PICKED, SCALE_BLOCK_N, key_of, scale_to_relevance
from .segments import segment_at
from .state import STATE_COLUMNS, pick_first


@triton.jit(do_not_specialize=["first_segment", "segments", "count", "k"])
def first_pick_kernel(
    reciprocal_norm,
    importance,
    plan,
    state,
    indices,
    scores,
    first_segment,
    segments,
    count,
    k,
    METHOD: tl.constexpr,
    WITH_SCORES: tl.constexpr,
    VARLEN: tl.constexpr,
):
    """One program scales a segment's importance where the method does so, and picks the most relevant row."""
    number = tl.program_id(0).to(tl.int64)
    _, first_row, length, kept, slot, workspace_row = segment_at(plan, number, first_segment, count, k, VARLEN)
    length = length.to(tl.int32)
    if kept > 0:
        if METHOD == "idpruner":
            scale_to_relevance(importance + workspace_row, reciprocal_norm + workspace_row, length)
        best_key = tl.full([SCALE_BLOCK_N], PICKED, tl.int32)
        best_row = tl.zeros([SCALE_BLOCK_N], tl.int32)
        for begin in range(0, length, SCALE_BLOCK_N):
            n = begin + tl.arange(0, SCALE_BLOCK_N)  # [SCALE_BLOCK_N]
            relevance = tl.load(importance + workspace_row + n, mask=n < length, other=0.0)
            finite = tl.load(reciprocal_norm + workspace_row + n, mask=n < length, other=0.0) != 0.0
            key = tl.where(n < length, tl.where(finite, key_of(relevance), NON_FINITE), PICKED)
            better = key > best_key
            best_key = tl.where(better, key, best_key)
            best_row = tl.where(better, n, best_row)
        key = tl.max(best_key, axis=0)
        row = tl.min(tl.where(best_key == key, best_row, length), axis=0)
        of_segment = state + number * STATE_COLUMNS
        of_all = state + segments.to(tl.int64) * STATE_COLUMNS
        pick_first(
            of_segment,
            of_all,
            indices + slot,
            scores + slot if WITH_SCORES else None,
            first_row,
            kept,
            key,
            row,
            WITH_SCORES,
        )
