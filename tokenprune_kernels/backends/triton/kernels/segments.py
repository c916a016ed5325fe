"""Where a segment lies, and which segment a unit of work belongs to."""

import triton
import triton.language as tl

ROW_ALIGNMENT = tl.constexpr(4)
"""Float32 elements in 16 bytes: what rows and columns of the workspaces are padded to."""

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
    """Into how many units a segment is cut: blocks of UNIT_N rows, or the upper triangle of tiles of as many."""
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
    """One program plans first row, length, k, first slot, workspace row and first unit of segments.

    A segment whose prefix sums break the contract, or for which the workspaces have no room, gets length 0 and k 0,
    one that keeps too many rows its length. Behind the segments stands one more, whose first unit is their number.
    """
    highest_slot = tl.full([], 0, tl.int64)
    used = tl.full([], 0, tl.int64)
    units = tl.full([], 0, tl.int64)
    for begin in range(0, segments, BLOCK_S):
        s = begin + tl.arange(0, BLOCK_S)  # [BLOCK_S]
        inside = s < segments
        start = tl.load(cu_seqlens + s, mask=inside, other=0).to(tl.int64)
        end = tl.load(cu_seqlens + s + 1, mask=inside, other=0).to(tl.int64)
        slot = tl.load(cu_k + s, mask=inside, other=0).to(tl.int64)
        slot_end = tl.load(cu_k + s + 1, mask=inside, other=0).to(tl.int64)
        # Slots below an earlier boundary belong to an earlier segment.
        slot_before = tl.maximum(highest_slot, tl.associative_scan(slot, 0, _larger))
        valid = inside & (start >= 0) & (end >= start) & (end <= rows) & (end - start <= max_seqlen)
        valid = valid & (slot_end >= slot) & (slot_end <= total_k) & (slot == slot_before)
        valid = valid & ((s > 0) | ((start == 0) & (slot == 0)))
        padded = tl.where(valid, tl.cdiv(end - start, ROW_ALIGNMENT), 0)
        used_up_to = used + tl.cumsum(padded, 0)
        # Only segments that overlap can need more rows than there are.
        valid = valid & (used_up_to <= capacity)
        length = tl.where(valid, end - start, 0)
        cut = units_of(length, UNIT_N, TRIANGULAR)
        columns = plan + s.to(tl.int64) * PLAN_COLUMNS
        tl.store(columns, start, mask=inside)
        tl.store(columns + 1, length, mask=inside)
        tl.store(columns + 2, tl.where(valid, tl.minimum(slot_end - slot, length), 0), mask=inside)
        tl.store(columns + 3, slot, mask=inside)
        tl.store(columns + 4, tl.where(valid, used_up_to - padded, 0) * ROW_ALIGNMENT, mask=inside)
        tl.store(columns + 5, units + tl.cumsum(cut, 0) - cut, mask=inside)
        used += tl.sum(padded, axis=0)
        units += tl.sum(cut, axis=0)
        highest_slot = tl.maximum(highest_slot, tl.max(slot, axis=0))
    tl.store(plan + segments.to(tl.int64) * PLAN_COLUMNS + 5, units)


@triton.jit
def segment_at(plan, number, first_segment, count, k, VARLEN: tl.constexpr):
    """Which segment is the slice's ``number``-th; its first row, length, k, first slot and workspace row."""
    segment = first_segment.to(tl.int64) + number
    if VARLEN:
        columns = plan + segment * PLAN_COLUMNS
        first_row = tl.load(columns)
        length = tl.load(columns + 1)
        kept = tl.load(columns + 2)
        slot = tl.load(columns + 3)
        workspace_row = tl.load(columns + 4)
    else:
        first_row = segment * 0
        length = segment * 0 + count
        kept = segment * 0 + k
        slot = segment * k
        workspace_row = number * tl.cdiv(count, ROW_ALIGNMENT) * ROW_ALIGNMENT
    return segment, first_row, length, kept, slot, workspace_row


@triton.jit
def all_units(plan, segments, count, UNIT_N: tl.constexpr, TRIANGULAR: tl.constexpr, VARLEN: tl.constexpr):
    """How many units the segments of a slice are cut into."""
    if VARLEN:
        return tl.load(plan + segments.to(tl.int64) * PLAN_COLUMNS + 5)
    return segments.to(tl.int64) * units_of(count, UNIT_N, TRIANGULAR)


@triton.jit
def segment_of(plan, unit, segments, count, UNIT_N: tl.constexpr, TRIANGULAR: tl.constexpr, VARLEN: tl.constexpr):
    """Which segment of a slice a unit belongs to, and which of its units it is."""
    if VARLEN:
        # The last segment that begins at or before the unit: those that are empty begin where the next one does.
        number = tl.full([], 0, tl.int64)
        behind = tl.full([], 0, tl.int64) + segments
        while behind - number > 1:
            middle = (number + behind) // 2
            begun = tl.load(plan + middle * PLAN_COLUMNS + 5) <= unit
            number = tl.where(begun, middle, number)
            behind = tl.where(begun, behind, middle)
        return number, unit - tl.load(plan + number * PLAN_COLUMNS + 5)
    units = units_of(count, UNIT_N, TRIANGULAR)
    return unit // units, unit % units
