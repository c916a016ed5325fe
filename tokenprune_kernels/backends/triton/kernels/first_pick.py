"""The first pick: the most relevant row, or, for DivPrune, the top distance outlier.

The latter is the row whose nearest other row is farthest. The idea of Bay & Schwabacher (2003): a row's similarity to
the nearest of a few others bounds its score. Rows with the best bounds are compared with all others, which makes their
scores exact and tightens everyone's bound, until no bound comes before the best exact score.
"""

import triton
import triton.language as tl

from .candidates import choose
from .grid import grid_barrier, is_last
from .idpruner import SCALE_BLOCK_N, scale_to_relevance
from .scores import LARGEST_ROW, NO_KEY, NON_FINITE, PICKED, comes_before, key_from, key_of, score_of
from .segments import all_units, segment_at, segment_of
from .similarity import dot_products, similarity_of
from .state import (
    CANDIDATES,
    OPEN_SEARCHES,
    OPEN_SELECTIONS,
    OUTLIER_ARRIVALS,
    OUTLIER_KEY,
    OUTLIER_ROW,
    PICKS,
    STATE_COLUMNS,
    TICKETS,
)

_MOST_DOUBLINGS = tl.constexpr(10)


@triton.jit
def pick_first(of_segment, of_all, indices, scores, first_row, kept, key, row, WITH_SCORES: tl.constexpr):
    """Writes a segment's first pick; its other rows wait for the candidate blocks."""
    tl.store(indices, first_row + row)
    if WITH_SCORES:
        tl.store(scores, score_of(key))
    tl.store(of_segment + PICKS, 1)
    if kept > 1:
        tl.atomic_add(of_all + OPEN_SELECTIONS, 1, sem="relaxed")


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


@triton.jit
def _room_at(turn, room, BLOCK_N: tl.constexpr):
    """How many candidates are chosen in a turn: a picture's outlier is found among few, in noise many save turns."""
    return tl.minimum(room, BLOCK_N << tl.minimum(tl.maximum(turn - 1, 0), _MOST_DOUBLINGS))


@triton.jit
def _bound(
    rows,
    stride_n,
    reciprocal_norm,
    keys,
    chosen,
    outlier_keys,
    candidates,
    n,
    c,
    length,
    width,
    at_first,
    EVEN_D: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """Compares rows n with one another at first, then with candidates c, and lowers the keys of both."""
    inside = n < length
    norm = tl.load(reciprocal_norm + n, mask=inside, other=0.0)
    valid = (at_first & inside) | (~at_first & (c < candidates))
    other = tl.where(at_first, n, tl.load(chosen + c, mask=~at_first & valid, other=0).to(tl.int64))
    norm_o = tl.load(reciprocal_norm + other, mask=valid, other=0.0)
    dot = dot_products(
        rows + n * stride_n, inside, rows + other * stride_n, valid, 0, width, EVEN_D, BLOCK_N, BLOCK_N, BLOCK_D
    )
    itself = n[:, None] == other[None, :]
    values = tl.where(itself, float("-inf"), similarity_of(dot, norm, norm_o))  # [BLOCK_N, BLOCK_N]
    key = key_from(tl.max(values, axis=1), 0.0, 0.0, 0.0, "divprune")
    if at_first:
        tl.store(keys + n, tl.where(norm != 0.0, key, NON_FINITE), mask=inside)
    else:
        # Rows that are non-finite, or whose score is exact already, have lower keys.
        tl.atomic_min(keys + n, key, mask=inside, sem="relaxed")
        of_columns = key_from(tl.max(values, axis=0), 0.0, 0.0, 0.0, "divprune")
        tl.atomic_min(outlier_keys + c, of_columns, mask=valid, sem="relaxed")


@triton.jit
def _settle(of_segment, keys, chosen, outlier_keys, candidates, CANDIDATE_N: tl.constexpr):
    """The candidates' scores are exact now: the best of them, or an earlier one, is the top outlier so far."""
    c = tl.arange(0, CANDIDATE_N)  # [CANDIDATE_N]
    valid = c < candidates
    row = tl.load(chosen + c, mask=valid, other=0)
    key = tl.load(keys + row, mask=valid, other=PICKED)
    key = tl.minimum(key, tl.load(outlier_keys + c, mask=valid, other=PICKED))
    # Threads that hold the same rows must have read them all before one writes.
    tl.debug_barrier()
    tl.store(keys + row, PICKED, mask=valid)
    # Other threads read what these have written.
    tl.debug_barrier()
    key_now = tl.max(key, axis=0)
    row_now = tl.min(tl.where(key == key_now, row, LARGEST_ROW), axis=0)
    key_before = tl.where(candidates > 0, tl.load(of_segment + OUTLIER_KEY), PICKED)
    row_before = tl.where(candidates > 0, tl.load(of_segment + OUTLIER_ROW), 0)
    better = comes_before(key_now, row_now, key_before, row_before)
    return tl.where(better, key_now, key_before), tl.where(better, row_now, row_before)


@triton.jit
def _search(
    x,
    plan,
    reciprocal_norm,
    keys,
    chosen,
    outlier_keys,
    state,
    indices,
    scores,
    unit,
    widest,
    turn,
    first_segment,
    segments,
    count,
    k,
    room,
    stride_xb,
    stride_n,
    width,
    WITH_SCORES: tl.constexpr,
    VARLEN: tl.constexpr,
    ALIGNMENT: tl.constexpr,
    EVEN_D: tl.constexpr,
    CANDIDATE_N: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """One block of rows and one of candidates; a segment's last program to finish chooses these anew, or picks."""
    number, block = segment_of(plan, unit // widest, segments, count, BLOCK_N, False, VARLEN)
    segment, first_row, length, kept, slot, workspace_row = segment_at(plan, number, first_segment, count, k, VARLEN)
    of_segment = state + number * STATE_COLUMNS
    of_all = state + segments.to(tl.int64) * STATE_COLUMNS
    keys += workspace_row
    chosen += number * CANDIDATE_N
    outlier_keys += number * CANDIDATE_N
    # At first nobody has candidates, and those whose search is over have none any more.
    candidates = tl.load(of_segment + CANDIDATES)
    at_first = turn == 0
    if (kept > 0) & (at_first | (candidates > 0)):
        first = tl.cast(unit % widest, tl.int32) * BLOCK_N
        if at_first | (first < candidates):
            _bound(
                x + segment * stride_xb * ALIGNMENT + first_row * stride_n,
                stride_n,
                reciprocal_norm + workspace_row,
                keys,
                chosen,
                outlier_keys,
                candidates,
                block * BLOCK_N + tl.arange(0, BLOCK_N),
                first + tl.arange(0, BLOCK_N),
                length,
                width,
                at_first,
                EVEN_D,
                BLOCK_N,
                BLOCK_D,
            )
        if is_last(of_segment + TICKETS, tl.cdiv(length, BLOCK_N) * widest):
            best_key, best_row = _settle(of_segment, keys, chosen, outlier_keys, candidates, CANDIDATE_N)
            found, top = choose(keys, chosen, of_segment, length, _room_at(turn, room, BLOCK_N), best_key, best_row)
            if (found == 0) | (top == NON_FINITE):
                tl.debug_barrier()
                row = tl.where(found == 0, best_row, tl.load(chosen))
                key = tl.where(found == 0, best_key, NON_FINITE)
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
                tl.store(of_segment + CANDIDATES, 0)
            else:
                c = tl.arange(0, CANDIDATE_N)  # [CANDIDATE_N]
                tl.store(outlier_keys + c, tl.full([CANDIDATE_N], NO_KEY, tl.int32))
                tl.store(of_segment + OUTLIER_KEY, best_key)
                tl.store(of_segment + OUTLIER_ROW, best_row)
                tl.atomic_add(of_all + OPEN_SEARCHES + turn % 3, 1, sem="relaxed")


@triton.jit(
    do_not_specialize=[
        "first_segment",
        "segments",
        "count",
        "k",
        "depth",
        "programs",
        "room",
        "stride_xb",
        "stride_xn",
    ]
)
def outlier_kernel(
    x,
    plan,
    reciprocal_norm,
    keys,
    chosen,
    outlier_keys,
    state,
    indices,
    scores,
    first_segment,
    segments,
    count,
    k,
    depth,
    programs,
    room,
    stride_xb,
    stride_xn,
    WITH_SCORES: tl.constexpr,
    VARLEN: tl.constexpr,
    ALIGNMENT: tl.constexpr,
    EVEN_D: tl.constexpr,
    CANDIDATE_N: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """The first pick of all segments side by side, comparing up to ``room`` rows of each with all others in a round."""
    of_all = state + segments.to(tl.int64) * STATE_COLUMNS
    stride_n = stride_xn.to(tl.int64) * ALIGNMENT
    width = depth * ALIGNMENT
    blocks = all_units(plan, segments, count, BLOCK_N, False, VARLEN)
    arrived = tl.full([], 0, tl.int32)
    turn = tl.full([], 0, tl.int32)
    still_open = tl.full([], 1, tl.int32)
    while still_open > 0:
        # Of three counters in turn, one is counted up, one may still be read by a program behind, one is emptied.
        if tl.program_id(0) == 0:
            tl.store(of_all + OPEN_SEARCHES + (turn + 1) % 3, 0)
        widest = tl.cdiv(_room_at(turn - 1, room, BLOCK_N), BLOCK_N)
        for unit in range(tl.program_id(0).to(tl.int64), blocks * widest, programs):
            _search(
                x,
                plan,
                reciprocal_norm,
                keys,
                chosen,
                outlier_keys,
                state,
                indices,
                scores,
                unit,
                widest,
                turn,
                first_segment,
                segments,
                count,
                k,
                room,
                stride_xb,
                stride_n,
                width,
                WITH_SCORES,
                VARLEN,
                ALIGNMENT,
                EVEN_D,
                CANDIDATE_N,
                BLOCK_N,
                BLOCK_D,
            )
        arrived += programs
        grid_barrier(of_all + OUTLIER_ARRIVALS, arrived)
        still_open = tl.load(of_all + OPEN_SEARCHES + turn % 3)
        turn += 1
