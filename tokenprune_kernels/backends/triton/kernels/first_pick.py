"""The first pick before the lazy greedy rounds: the most relevant row (MMR, IDPruner) or the top outlier (DivPrune).

The top outlier is the row whose nearest other row is farthest. The search follows Bay & Schwabacher (2003): the
similarity of a row to the nearest of some others gives an upper bound of its score. A round compares the rows with the
best bounds, the candidates, with all rows. This makes the scores of the candidates exact and lowers the bounds of the
others. The search ends when no bound comes before the best exact score.
"""

import triton
import triton.language as tl

from .candidates import choose_candidates
from .divprune import divprune_key
from .grid import grid_barrier, last_to_arrive
from .idpruner import SCALE_BLOCK_N, scale_to_relevance
from .scores import LARGEST_ROW, NO_KEY, NON_FINITE, PICKED, comes_before, key_of, score_of
from .segments import all_units, segment_at, segment_of
from .similarity import dot_products, similarity_of
from .state import (
    ARRIVAL_COUNTER,
    CANDIDATE_COUNT,
    OPEN_SEARCHES,
    OPEN_SELECTIONS,
    OUTLIER_BARRIER,
    OUTLIER_KEY,
    OUTLIER_ROW,
    PICKS,
    STATE_COLUMNS,
)

_MAX_DOUBLINGS = tl.constexpr(10)


@triton.jit
def pick_first(segment_state, grid_state, indices, scores, first_row, k, key, row, WITH_SCORES: tl.constexpr):
    """Writes a segment's first pick. If k is larger, the segment is left to the lazy greedy kernel."""
    tl.store(indices, first_row + row)
    if WITH_SCORES:
        tl.store(scores, score_of(key))
    tl.store(segment_state + PICKS, 1)
    if k > 1:
        tl.atomic_add(grid_state + OPEN_SELECTIONS, 1, sem="relaxed")


@triton.jit(do_not_specialize=["first_segment", "segments", "count", "k"])
def first_pick_kernel(
    reciprocal_norm,
    relevance,
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
    """One program picks the most relevant row of one segment. For IDPruner it first scales importance to relevance."""
    number = tl.program_id(0).to(tl.int64)
    _, first_row, length, segment_k, out_row, workspace_row = segment_at(plan, number, first_segment, count, k, VARLEN)
    length = length.to(tl.int32)
    if segment_k > 0:
        if METHOD == "idpruner":
            scale_to_relevance(relevance + workspace_row, reciprocal_norm + workspace_row, length)
        best_key = tl.full([SCALE_BLOCK_N], PICKED, tl.int32)
        best_row = tl.zeros([SCALE_BLOCK_N], tl.int32)
        for begin in range(0, length, SCALE_BLOCK_N):
            n = begin + tl.arange(0, SCALE_BLOCK_N)  # [SCALE_BLOCK_N]
            row_relevance = tl.load(relevance + workspace_row + n, mask=n < length, other=0.0)
            finite = tl.load(reciprocal_norm + workspace_row + n, mask=n < length, other=0.0) != 0.0
            key = tl.where(n < length, tl.where(finite, key_of(row_relevance), NON_FINITE), PICKED)
            better = key > best_key
            best_key = tl.where(better, key, best_key)
            best_row = tl.where(better, n, best_row)
        key = tl.max(best_key, axis=0)
        row = tl.min(tl.where(best_key == key, best_row, length), axis=0)
        segment_state = state + number * STATE_COLUMNS
        grid_state = state + segments.to(tl.int64) * STATE_COLUMNS
        pick_first(
            segment_state,
            grid_state,
            indices + out_row,
            scores + out_row if WITH_SCORES else None,
            first_row,
            segment_k,
            key,
            row,
            WITH_SCORES,
        )


@triton.jit
def _candidates_at(round_number, max_candidates, BLOCK_N: tl.constexpr):
    """How many candidates a round chooses: BLOCK_N at first, twice as many in each round from the third on.

    In a picture, few candidates contain the top outlier. In noise, many candidates save rounds.
    """
    return tl.minimum(max_candidates, BLOCK_N << tl.minimum(tl.maximum(round_number - 1, 0), _MAX_DOUBLINGS))


@triton.jit
def _tighten_bounds(
    rows,
    stride_n,
    reciprocal_norm,
    keys,
    candidate_rows,
    outlier_keys,
    candidate_count,
    n,
    c,
    length,
    D,
    at_first,
    EVEN_D: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """Lowers the keys of rows n, by comparing them with one another in round 0, and later with candidates c.

    In later rounds it lowers the candidates' keys too, in ``outlier_keys``.
    """
    inside = n < length
    norm = tl.load(reciprocal_norm + n, mask=inside, other=0.0)
    valid = (at_first & inside) | (~at_first & (c < candidate_count))
    other = tl.where(at_first, n, tl.load(candidate_rows + c, mask=~at_first & valid, other=0).to(tl.int64))
    norm_o = tl.load(reciprocal_norm + other, mask=valid, other=0.0)
    dot = dot_products(
        rows + n * stride_n, inside, rows + other * stride_n, valid, 0, D, EVEN_D, BLOCK_N, BLOCK_N, BLOCK_D
    )
    itself = n[:, None] == other[None, :]
    values = tl.where(itself, float("-inf"), similarity_of(dot, norm, norm_o))  # [BLOCK_N, BLOCK_N]
    key = divprune_key(tl.max(values, axis=1))
    if at_first:
        tl.store(keys + n, tl.where(norm != 0.0, key, NON_FINITE), mask=inside)
    else:
        # Rows that are not finite, or whose score is exact already, keep their keys, which are lower.
        tl.atomic_min(keys + n, key, mask=inside, sem="relaxed")
        of_columns = divprune_key(tl.max(values, axis=0))
        tl.atomic_min(outlier_keys + c, of_columns, mask=valid, sem="relaxed")


@triton.jit
def _best_exact(segment_state, keys, candidate_rows, outlier_keys, candidate_count, CANDIDATE_N: tl.constexpr):
    """Returns key and row of the top outlier so far, and takes the candidates out of the search.

    That is the best of the candidates, whose scores are exact now, or the best of the rounds before.
    """
    c = tl.arange(0, CANDIDATE_N)  # [CANDIDATE_N]
    valid = c < candidate_count
    row = tl.load(candidate_rows + c, mask=valid, other=0)
    key = tl.load(keys + row, mask=valid, other=PICKED)
    key = tl.minimum(key, tl.load(outlier_keys + c, mask=valid, other=PICKED))
    # Several threads may hold the same row. All must have read its key before one of them writes it.
    tl.debug_barrier()
    tl.store(keys + row, PICKED, mask=valid)
    # Other threads of the program read these keys next.
    tl.debug_barrier()
    key_now = tl.max(key, axis=0)
    row_now = tl.min(tl.where(key == key_now, row, LARGEST_ROW), axis=0)
    key_before = tl.where(candidate_count > 0, tl.load(segment_state + OUTLIER_KEY), PICKED)
    row_before = tl.where(candidate_count > 0, tl.load(segment_state + OUTLIER_ROW), 0)
    better = comes_before(key_now, row_now, key_before, row_before)
    return tl.where(better, key_now, key_before), tl.where(better, row_now, row_before)


@triton.jit
def _search(
    x,
    plan,
    reciprocal_norm,
    keys,
    candidate_rows,
    outlier_keys,
    state,
    indices,
    scores,
    unit,
    candidate_blocks,
    round_number,
    first_segment,
    segments,
    count,
    k,
    max_candidates,
    stride_xb,
    stride_n,
    D,
    WITH_SCORES: tl.constexpr,
    VARLEN: tl.constexpr,
    ALIGNMENT: tl.constexpr,
    EVEN_D: tl.constexpr,
    CANDIDATE_N: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """Compares one block of rows with one block of candidates.

    The last program to arrive at a segment chooses new candidates, or makes the first pick if the search is done.
    """
    number, block = segment_of(plan, unit // candidate_blocks, segments, count, BLOCK_N, False, VARLEN)
    segment, first_row, length, segment_k, out_row, workspace_row = segment_at(
        plan, number, first_segment, count, k, VARLEN
    )
    segment_state = state + number * STATE_COLUMNS
    grid_state = state + segments.to(tl.int64) * STATE_COLUMNS
    keys += workspace_row
    candidate_rows += number * CANDIDATE_N
    outlier_keys += number * CANDIDATE_N
    # The count is 0 in round 0, and again once the segment's search is done.
    candidate_count = tl.load(segment_state + CANDIDATE_COUNT)
    at_first = round_number == 0
    if (segment_k > 0) & (at_first | (candidate_count > 0)):
        first = tl.cast(unit % candidate_blocks, tl.int32) * BLOCK_N
        if at_first | (first < candidate_count):
            _tighten_bounds(
                x + segment * stride_xb * ALIGNMENT + first_row * stride_n,
                stride_n,
                reciprocal_norm + workspace_row,
                keys,
                candidate_rows,
                outlier_keys,
                candidate_count,
                block * BLOCK_N + tl.arange(0, BLOCK_N),
                first + tl.arange(0, BLOCK_N),
                length,
                D,
                at_first,
                EVEN_D,
                BLOCK_N,
                BLOCK_D,
            )
        if last_to_arrive(segment_state + ARRIVAL_COUNTER, tl.cdiv(length, BLOCK_N) * candidate_blocks):
            best_key, best_row = _best_exact(
                segment_state, keys, candidate_rows, outlier_keys, candidate_count, CANDIDATE_N
            )
            found, top = choose_candidates(
                keys,
                candidate_rows,
                segment_state,
                length,
                _candidates_at(round_number, max_candidates, BLOCK_N),
                best_key,
                best_row,
            )
            if (found == 0) | (top == NON_FINITE):
                tl.debug_barrier()
                row = tl.where(found == 0, best_row, tl.load(candidate_rows))
                key = tl.where(found == 0, best_key, NON_FINITE)
                pick_first(
                    segment_state,
                    grid_state,
                    indices + out_row,
                    scores + out_row if WITH_SCORES else None,
                    first_row,
                    segment_k,
                    key,
                    row,
                    WITH_SCORES,
                )
                tl.store(segment_state + CANDIDATE_COUNT, 0)
            else:
                c = tl.arange(0, CANDIDATE_N)  # [CANDIDATE_N]
                tl.store(outlier_keys + c, tl.full([CANDIDATE_N], NO_KEY, tl.int32))
                tl.store(segment_state + OUTLIER_KEY, best_key)
                tl.store(segment_state + OUTLIER_ROW, best_row)
                tl.atomic_add(grid_state + OPEN_SEARCHES + round_number % 3, 1, sem="relaxed")


@triton.jit(
    do_not_specialize=[
        "first_segment",
        "segments",
        "count",
        "k",
        "d_units",
        "programs",
        "max_candidates",
        "stride_xb",
        "stride_xn",
    ]
)
def outlier_kernel(
    x,
    plan,
    reciprocal_norm,
    keys,
    candidate_rows,
    outlier_keys,
    state,
    indices,
    scores,
    first_segment,
    segments,
    count,
    k,
    d_units,
    programs,
    max_candidates,
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
    """Makes DivPrune's first pick of all segments side by side, in rounds with a barrier after each.

    A round compares up to ``max_candidates`` candidates of each segment with all its rows.
    """
    grid_state = state + segments.to(tl.int64) * STATE_COLUMNS
    stride_n = stride_xn.to(tl.int64) * ALIGNMENT
    D = d_units * ALIGNMENT
    blocks = all_units(plan, segments, count, BLOCK_N, False, VARLEN)
    arrived = tl.full([], 0, tl.int32)
    round_number = tl.full([], 0, tl.int32)
    open_searches = tl.full([], 1, tl.int32)
    while open_searches > 0:
        # Triple buffer: count into column r % 3, slow programs may still read column r - 1, clear column r + 1.
        if tl.program_id(0) == 0:
            tl.store(grid_state + OPEN_SEARCHES + (round_number + 1) % 3, 0)
        candidate_blocks = tl.cdiv(_candidates_at(round_number - 1, max_candidates, BLOCK_N), BLOCK_N)
        for unit in range(tl.program_id(0).to(tl.int64), blocks * candidate_blocks, programs):
            _search(
                x,
                plan,
                reciprocal_norm,
                keys,
                candidate_rows,
                outlier_keys,
                state,
                indices,
                scores,
                unit,
                candidate_blocks,
                round_number,
                first_segment,
                segments,
                count,
                k,
                max_candidates,
                stride_xb,
                stride_n,
                D,
                WITH_SCORES,
                VARLEN,
                ALIGNMENT,
                EVEN_D,
                CANDIDATE_N,
                BLOCK_N,
                BLOCK_D,
            )
        arrived += programs
        grid_barrier(grid_state + OUTLIER_BARRIER, arrived)
        open_searches = tl.load(grid_state + OPEN_SEARCHES + round_number % 3)
        round_number += 1
