"""The lazy greedy selection (Minoux, 1978): all picks after the first, many of them from the Gram matrix of a few rows.

A round (1) updates the keys of all rows with the picks of the round before, (2) chooses the rows with the best keys as
candidates, (3) computes the candidates' Gram matrix, and (4) picks among the candidates, with it alone, as long as the
best of them comes before the best row outside. During (4) the keys of the rows outside are stale: they lack the new
picks. Scores only fall as rows are picked, so a stale key is an upper bound.
"""

import triton
import triton.language as tl

from .candidates import choose_candidates, gram_tile
from .grid import grid_barrier, last_to_arrive
from .scores import NON_FINITE, PICKED, UNBOUNDED, best_of, key_from, score_of
from .segments import all_units, segment_at, segment_of, triangle
from .similarity import dot_products, elements_of, partial_tile, similarity_of, sum_of_splits
from .state import (
    ARRIVAL_COUNTER,
    BEST_OUTSIDE_KEY,
    BEST_OUTSIDE_ROW,
    CANDIDATE_COUNT,
    LAZY_GREEDY_BARRIER,
    OPEN_SELECTIONS,
    PICKS,
    PICKS_SEEN,
    STATE_COLUMNS,
)

SPLIT_BLOCKS = tl.constexpr(2)
"""How many blocks of new picks are split along D at most. Partial sums of more would take much memory."""


@triton.jit
def _picks_from(begin, picks, picked, reciprocal_norm, first_row, BLOCK_N: tl.constexpr):
    """Returns the rows of a block of picks, their reciprocal norms, and which of them exist."""
    p = begin + tl.arange(0, BLOCK_N)  # [BLOCK_N]
    pick = tl.load(picked + p, mask=p < picks, other=first_row) - first_row
    # A reciprocal norm of 0 makes a similarity -inf, which changes no maximum.
    return pick, tl.load(reciprocal_norm + pick, mask=p < picks, other=0.0), p < picks


@triton.jit
def _update(
    rows,
    stride_n,
    reciprocal_norm,
    relevance,
    keys,
    picked,
    picks_seen,
    picks,
    first_row,
    n,
    length,
    D,
    partial_sums,
    arrival_counter,
    split,
    splits,
    relevance_weight,
    redundancy_weight,
    METHOD: tl.constexpr,
    EVEN_D: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """Updates the keys of rows n with the picks they have not seen. Returns True in the one program that stored them.

    Up to SPLIT_BLOCKS blocks of new picks are split along D across programs (split-K). Beyond that, the program of the
    first split does all of D.
    """
    inside = n < length
    norm = tl.load(reciprocal_norm + n, mask=inside, other=0.0)
    is_split = (splits > 1) & (picks - picks_seen <= SPLIT_BLOCKS * BLOCK_N)
    first, last = elements_of(split, is_split, D)
    nearest = tl.full([BLOCK_N], float("-inf"), tl.float32)
    complete = split == 0
    if is_split | complete:
        for begin in range(picks_seen, picks, BLOCK_N):
            pick, norm_p, valid = _picks_from(begin, picks, picked, reciprocal_norm, first_row, BLOCK_N)
            others = rows + pick * stride_n
            dot = dot_products(
                rows + n * stride_n, inside, others, valid, first, last, EVEN_D, BLOCK_N, BLOCK_N, BLOCK_D
            )
            if is_split:
                of_block = partial_tile(partial_sums + (begin - picks_seen) * splits * BLOCK_N, BLOCK_N)
                tl.store(of_block + split * (BLOCK_N * BLOCK_N), dot)
            else:
                nearest = tl.maximum(nearest, tl.max(similarity_of(dot, norm, norm_p), axis=1))
    if is_split:
        complete = last_to_arrive(arrival_counter, splits)
        if complete:
            for begin in range(picks_seen, picks, BLOCK_N):
                _, norm_p, _ = _picks_from(begin, picks, picked, reciprocal_norm, first_row, BLOCK_N)
                of_block = partial_tile(partial_sums + (begin - picks_seen) * splits * BLOCK_N, BLOCK_N)
                dot = sum_of_splits(of_block, splits, BLOCK_N)
                nearest = tl.maximum(nearest, tl.max(similarity_of(dot, norm, norm_p), axis=1))
    if complete:
        row_relevance = tl.zeros([BLOCK_N], tl.float32)
        if METHOD != "divprune":
            row_relevance = tl.load(relevance + n, mask=inside, other=0.0)
        if picks_seen == 0:
            # The first pick has a score of another kind, which bounds no later score.
            first_pick = tl.load(picked) - first_row
            key = tl.where(n == first_pick, PICKED, tl.where(norm != 0.0, UNBOUNDED, NON_FINITE))
        else:
            key = tl.load(keys + n, mask=inside, other=PICKED)
        new_key = key_from(nearest, row_relevance, relevance_weight, redundancy_weight, METHOD)
        tl.store(keys + n, tl.minimum(key, new_key), mask=inside)
    return complete


@triton.jit
def _pick_from_candidates(
    segment_state,
    relevance,
    keys,
    candidate_rows,
    gram,
    stride_g,
    indices,
    scores,
    first_row,
    k,
    relevance_weight,
    redundancy_weight,
    METHOD: tl.constexpr,
    WITH_SCORES: tl.constexpr,
    CANDIDATE_N: tl.constexpr,
    WARPS: tl.constexpr,
):
    """Picks candidates as long as the best of them comes before the best row outside. Returns how many picks are made.

    The caller's program alone works on the segment.
    """
    candidate_count = tl.load(segment_state + CANDIDATE_COUNT)
    best_outside_key = tl.load(segment_state + BEST_OUTSIDE_KEY)
    best_outside_row = tl.load(segment_state + BEST_OUTSIDE_ROW)
    before = tl.load(segment_state + PICKS)
    c = tl.arange(0, CANDIDATE_N)  # [CANDIDATE_N]
    inside = c < candidate_count
    row = tl.load(candidate_rows + c, mask=inside, other=0)
    key = tl.load(keys + row, mask=inside, other=PICKED)
    row_relevance = tl.zeros([CANDIDATE_N], tl.float32)
    if METHOD != "divprune":
        row_relevance = tl.load(relevance + row, mask=inside, other=0.0)
    picks = before
    best, place = best_of(key, CANDIDATE_N, WARPS)
    picking = picks < k
    while picking:
        similarities = tl.load(gram + place * stride_g + c)  # [CANDIDATE_N]
        tl.store(indices + picks, place)
        if WITH_SCORES:
            tl.store(scores + picks, score_of(best))
        picks += 1
        key = tl.where(c == place, PICKED, key)
        key = tl.minimum(key, key_from(similarities, row_relevance, relevance_weight, redundancy_weight, METHOD))
        best, place = best_of(key, CANDIDATE_N, WARPS)
        picking = (picks < k) & (best >= best_outside_key)
        if picking & (best == best_outside_key):
            picking = tl.load(candidate_rows + place) < best_outside_row
    tl.debug_barrier()
    # ``indices`` holds places among the candidates so far. They become rows here, outside the loop over picks.
    new = before + c < picks
    place = tl.load(indices + before + c, mask=new, other=0)
    tl.debug_barrier()
    tl.store(indices + before + c, first_row + tl.load(candidate_rows + place, mask=new, other=0), mask=new)
    tl.store(keys + row, key, mask=inside)
    tl.store(segment_state + PICKS_SEEN, before)
    tl.store(segment_state + PICKS, picks)
    return picks


@triton.jit(
    do_not_specialize=[
        "first_segment",
        "segments",
        "count",
        "k",
        "d_units",
        "programs",
        "max_candidates",
        "max_rounds",
        "gram_blocks",
        "row_splits",
        "tile_splits",
        "stride_xb",
        "stride_xn",
        "relevance_weight",
        "redundancy_weight",
    ]
)
def lazy_greedy_kernel(
    x,
    plan,
    reciprocal_norm,
    relevance,
    keys,
    candidate_rows,
    gram,
    partial_sums,
    arrival_counters,
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
    max_rounds,
    gram_blocks,
    row_splits,
    tile_splits,
    stride_xb,
    stride_xn,
    relevance_weight,
    redundancy_weight,
    METHOD: tl.constexpr,
    WITH_SCORES: tl.constexpr,
    VARLEN: tl.constexpr,
    ALIGNMENT: tl.constexpr,
    EVEN_D: tl.constexpr,
    CANDIDATE_N: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr,
    WARPS: tl.constexpr,
):
    """Makes all picks after the first, of all segments side by side, in rounds of two phases with a barrier after each.

    Phase one: programs update blocks of rows. The last one to arrive at a segment chooses its candidates. Phase two:
    programs compute tiles of the candidates' Gram matrix. The last one to arrive at a segment picks from them. After
    ``max_rounds`` rounds there is one candidate at a time, so that each round makes one pick.
    """
    program = tl.program_id(0).to(tl.int64)
    grid_state = state + segments.to(tl.int64) * STATE_COLUMNS
    stride_n = stride_xn.to(tl.int64) * ALIGNMENT
    D = d_units * ALIGNMENT
    blocks = all_units(plan, segments, count, BLOCK_N, False, VARLEN)
    stride_g = tl.cast(gram_blocks, tl.int64) * BLOCK_N
    tiles = triangle(gram_blocks)
    arrived = tl.full([], 0, tl.int32)
    round_number = tl.full([], 0, tl.int32)
    while tl.load(grid_state + OPEN_SELECTIONS) > 0:
        for unit in range(program, blocks * row_splits, programs):
            row_block = unit // row_splits
            number, block = segment_of(plan, row_block, segments, count, BLOCK_N, False, VARLEN)
            segment, first_row, length, segment_k, out_row, workspace_row = segment_at(
                plan, number, first_segment, count, k, VARLEN
            )
            segment_state = state + number * STATE_COLUMNS
            picks = tl.load(segment_state + PICKS)
            if picks < segment_k:
                last = _update(
                    x + segment * stride_xb * ALIGNMENT + first_row * stride_n,
                    stride_n,
                    reciprocal_norm + workspace_row,
                    relevance + workspace_row if METHOD != "divprune" else None,
                    keys + workspace_row,
                    indices + out_row,
                    tl.load(segment_state + PICKS_SEEN),
                    picks,
                    first_row,
                    block * BLOCK_N + tl.arange(0, BLOCK_N),
                    length,
                    D,
                    partial_sums + row_block * (row_splits * SPLIT_BLOCKS * BLOCK_N * BLOCK_N),
                    arrival_counters + row_block,
                    tl.cast(unit % row_splits, tl.int32),
                    row_splits,
                    relevance_weight,
                    redundancy_weight,
                    METHOD,
                    EVEN_D,
                    BLOCK_N,
                    BLOCK_D,
                )
                if last:
                    last = last_to_arrive(segment_state + ARRIVAL_COUNTER, tl.cdiv(length, BLOCK_N))
                if last:
                    choose_candidates(
                        keys + workspace_row,
                        candidate_rows + number * CANDIDATE_N,
                        segment_state,
                        length,
                        tl.where(round_number < max_rounds, max_candidates, 1),
                        PICKED,
                        0,
                    )
        arrived += programs
        grid_barrier(grid_state + LAZY_GREEDY_BARRIER, arrived)
        for unit in range(program, segments.to(tl.int64) * tiles * tile_splits, programs):
            tile = unit // tile_splits
            number = tile // tiles
            segment, first_row, length, segment_k, out_row, workspace_row = segment_at(
                plan, number, first_segment, count, k, VARLEN
            )
            segment_state = state + number * STATE_COLUMNS
            # The count stands since the barrier. Tiles without candidates are left out, and do not even read PICKS:
            # nothing waits for them, so that it could change at that time. The others read it before they arrive.
            candidate_count = tl.load(segment_state + CANDIDATE_COUNT)
            candidate_tiles = triangle(tl.cdiv(candidate_count, BLOCK_N))
            has_candidates = tile % tiles < candidate_tiles
            picks = tl.load(segment_state + PICKS, mask=has_candidates, other=0)
            if has_candidates & (picks < segment_k):
                last = gram_tile(
                    x + segment * stride_xb * ALIGNMENT + first_row * stride_n,
                    stride_n,
                    reciprocal_norm + workspace_row,
                    candidate_rows + number * CANDIDATE_N,
                    candidate_count,
                    gram + number * stride_g * stride_g,
                    stride_g,
                    tile % tiles,
                    D,
                    partial_sums + tile * (tile_splits * BLOCK_N * BLOCK_N),
                    arrival_counters + tile,
                    tl.cast(unit % tile_splits, tl.int32),
                    tile_splits,
                    EVEN_D,
                    BLOCK_N,
                    BLOCK_D,
                )
                if last:
                    last = last_to_arrive(segment_state + ARRIVAL_COUNTER, candidate_tiles)
                if last:
                    made = _pick_from_candidates(
                        segment_state,
                        relevance + workspace_row if METHOD != "divprune" else None,
                        keys + workspace_row,
                        candidate_rows + number * CANDIDATE_N,
                        gram + number * stride_g * stride_g,
                        stride_g,
                        indices + out_row,
                        scores + out_row if WITH_SCORES else None,
                        first_row,
                        segment_k,
                        relevance_weight,
                        redundancy_weight,
                        METHOD,
                        WITH_SCORES,
                        CANDIDATE_N,
                        WARPS,
                    )
                    if made == segment_k:
                        tl.atomic_add(grid_state + OPEN_SELECTIONS, -1, sem="relaxed")
        arrived += programs
        grid_barrier(grid_state + LAZY_GREEDY_BARRIER, arrived)
        round_number += 1
