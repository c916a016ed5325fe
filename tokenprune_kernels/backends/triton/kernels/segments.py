"""Where each segment lies, and which segment a unit of work belongs to."""

import triton
import triton.language as tl

ROW_ALIGNMENT = tl.constexpr(4)
"""Rows and columns of the workspaces are padded to a multiple of it: the float32 elements of 16 bytes."""

# Columns of a ragged batch's plan, int64 ``[segments + 1, PLAN_COLUMNS]``.
FIRST_ROW = tl.constexpr(0)  # of the tokens
LENGTH = tl.constexpr(1)
K = tl.constexpr(2)
OUT_ROW = tl.constexpr(3)  # the first row of the result
WORKSPACE_ROW = tl.constexpr(4)  # the first row of the workspaces
FIRST_UNIT = tl.constexpr(5)  # how many units of work the segments before have
PLAN_COLUMNS = tl.constexpr(6)


@triton.jit
def _larger(a, b):
    return tl.maximum(a, b)


@triton.jit
def triangle(tiles):
    """How many tiles are on and above the diagonal."""
    return tiles * (tiles + 1) // 2


@triton.jit
def units_of(length, UNIT_N: tl.constexpr, TRIANGULAR: tl.constexpr):
    """How many units a segment has: blocks of UNIT_N rows, or tiles of UNIT_N x UNIT_N in the upper triangle."""
    blocks = tl.cdiv(length, UNIT_N)
    if TRIANGULAR:
        return triangle(blocks)
    return blocks


@triton.jit(
    do_not_specialize=["segments", "rows", "total_k", "max_seqlen", "capacity"],
    do_not_specialize_on_alignment=["cu_seqlens", "cu_k"],
)
def plan_kernel(
    cu_seqlens,
    cu_k,
    plan,
    segments,
    rows,
    total_k,
    max_seqlen,
    capacity,
    UNIT_N: tl.constexpr,
    TRIANGULAR: tl.constexpr,
    BLOCK_S: tl.constexpr,
):
    """One program plans all segments of a ragged batch: where each lies, its k, and its first unit of work.

    Segments that break the contract, and those without workspace, get length 0 and k 0. k is clamped to the length. A
    sentinel row behind the segments holds the total number of units.
    """
    highest_out_row = tl.full([], 0, tl.int64)
    used = tl.full([], 0, tl.int64)
    units = tl.full([], 0, tl.int64)
    for begin in range(0, segments, BLOCK_S):
        s = begin + tl.arange(0, BLOCK_S)  # [BLOCK_S]
        inside = s < segments
        start = tl.load(cu_seqlens + s, mask=inside, other=0).to(tl.int64)
        end = tl.load(cu_seqlens + s + 1, mask=inside, other=0).to(tl.int64)
        out_row = tl.load(cu_k + s, mask=inside, other=0).to(tl.int64)
        out_end = tl.load(cu_k + s + 1, mask=inside, other=0).to(tl.int64)
        # Rows of the result below an earlier boundary belong to an earlier segment.
        earlier_out_row = tl.maximum(highest_out_row, tl.associative_scan(out_row, 0, _larger))
        valid = inside & (start >= 0) & (end >= start) & (end <= rows) & (end - start <= max_seqlen)
        valid = valid & (out_end >= out_row) & (out_end <= total_k) & (out_row == earlier_out_row)
        valid = valid & ((s > 0) | ((start == 0) & (out_row == 0)))
        padded = tl.where(valid, tl.cdiv(end - start, ROW_ALIGNMENT), 0)
        used_up_to = used + tl.cumsum(padded, 0)
        # Only segments that overlap can need more rows than there are.
        valid = valid & (used_up_to <= capacity)
        length = tl.where(valid, end - start, 0)
        cut = units_of(length, UNIT_N, TRIANGULAR)
        columns = plan + s.to(tl.int64) * PLAN_COLUMNS
        tl.store(columns + FIRST_ROW, start, mask=inside)
        tl.store(columns + LENGTH, length, mask=inside)
        tl.store(columns + K, tl.where(valid, tl.minimum(out_end - out_row, length), 0), mask=inside)
        tl.store(columns + OUT_ROW, out_row, mask=inside)
        tl.store(columns + WORKSPACE_ROW, tl.where(valid, used_up_to - padded, 0) * ROW_ALIGNMENT, mask=inside)
        tl.store(columns + FIRST_UNIT, units + tl.cumsum(cut, 0) - cut, mask=inside)
        used += tl.sum(padded, axis=0)
        units += tl.sum(cut, axis=0)
        highest_out_row = tl.maximum(highest_out_row, tl.max(out_row, axis=0))
    tl.store(plan + segments.to(tl.int64) * PLAN_COLUMNS + FIRST_UNIT, units)


@triton.jit
def segment_at(plan, number, first_segment, count, k, VARLEN: tl.constexpr):
    """Returns the slice's ``number``-th segment, its first row, length, k, first row of the result and of workspaces.

    ``count`` and ``k`` are those of each item of a dense batch.
    """
    segment = first_segment.to(tl.int64) + number
    if VARLEN:
        columns = plan + segment * PLAN_COLUMNS
        first_row = tl.load(columns + FIRST_ROW)
        length = tl.load(columns + LENGTH)
        segment_k = tl.load(columns + K)
        out_row = tl.load(columns + OUT_ROW)
        workspace_row = tl.load(columns + WORKSPACE_ROW)
    else:
        first_row = segment * 0
        length = segment * 0 + count
        segment_k = segment * 0 + k
        out_row = segment * k
        workspace_row = number * tl.cdiv(count, ROW_ALIGNMENT) * ROW_ALIGNMENT
    return segment, first_row, length, segment_k, out_row, workspace_row


@triton.jit
def all_units(plan, segments, count, UNIT_N: tl.constexpr, TRIANGULAR: tl.constexpr, VARLEN: tl.constexpr):
    """How many units the segments of a slice are cut into."""
    if VARLEN:
        return tl.load(plan + segments.to(tl.int64) * PLAN_COLUMNS + FIRST_UNIT)
    return segments.to(tl.int64) * units_of(count, UNIT_N, TRIANGULAR)


@triton.jit
def segment_of(plan, unit, segments, count, UNIT_N: tl.constexpr, TRIANGULAR: tl.constexpr, VARLEN: tl.constexpr):
    """Returns the number of the segment that a unit belongs to, and the number of the unit within that segment."""
    if VARLEN:
        # The last segment that begins at or before the unit. Empty segments begin where the next one does.
        number = tl.full([], 0, tl.int64)
        end = tl.full([], 0, tl.int64) + segments
        while end - number > 1:
            middle = (number + end) // 2
            begun = tl.load(plan + middle * PLAN_COLUMNS + FIRST_UNIT) <= unit
            number = tl.where(begun, middle, number)
            end = tl.where(begun, end, middle)
        return number, unit - tl.load(plan + number * PLAN_COLUMNS + FIRST_UNIT)
    units = units_of(count, UNIT_N, TRIANGULAR)
    return unit // units, unit % units
