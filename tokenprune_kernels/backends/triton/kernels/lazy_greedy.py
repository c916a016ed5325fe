"""Candidate blocks: many picks from the similarities of a few rows.

Scores only fall as rows are picked. So among the candidates, the rows with the best keys, each pick is the best of all
rows as long as it comes before the best row outside, and only then do all rows take in the new picks.
"""

import triton
import triton.language as tl

from .candidates import choose, compare
from .grid import grid_barrier, is_last
from .scores import NON_FINITE, PICKED, UNBOUNDED, best_of, key_from, score_of
from .segments import all_units, segment_at, segment_of
from .similarity import CHUNK, dot_products, first_part, similarity_of, sum_of_parts
from .state import (
    CANDIDATE_ARRIVALS,
    CANDIDATES,
    OPEN_SELECTIONS,
    OUTSIDE_KEY,
    OUTSIDE_ROW,
    PICKS,
    STATE_COLUMNS,
    TAKEN_IN,
    TICKETS,
)

SPLIT_BLOCKS = tl.constexpr(2)
"""Up to so many blocks of picks are taken in a part of D at a time; partial sums of more would take much memory."""


@triton.jit
def _picks_from(begin, picks, picked, reciprocal_norm, first_row, BLOCK_N: tl.constexpr):
    """The rows of a block of picks, their reciprocal norms, and which of them there are."""
    p = begin + tl.arange(0, BLOCK_N)  # [BLOCK_N]
    pick = tl.load(picked + p, mask=p < picks, other=first_row) - first_row
    # 0: its similarities do not count.
    return pick, tl.load(reciprocal_norm + pick, mask=p < picks, other=0.0), p < picks


@triton.jit
def _take_in(
    rows,
    stride_n,
    reciprocal_norm,
    importance,
    keys,
    picked,
    taken_in,
    picks,
    first_row,
    n,
    length,
    width,
    partials,
    ticket,
    part,
    parts,
    relevance_weight,
    redundancy_weight,
    METHOD: tl.constexpr,
    EVEN_D: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """The keys of rows n take in the picks that they lack; whether this program is the one that wrote them.

    Up to SPLIT_BLOCKS blocks of picks are compared a part of D a program, more of them by the first one alone.
    """
    inside = n < length
    norm = tl.load(reciprocal_norm + n, mask=inside, other=0.0)
    split = (parts > 1) & (picks - taken_in <= SPLIT_BLOCKS * BLOCK_N)
    first = tl.where(split, part, 0) * CHUNK
    last = tl.where(split, tl.minimum(first + CHUNK, width), width)
    nearest = tl.full([BLOCK_N], float("-inf"), tl.float32)
    complete = part == 0
    if split | complete:
        for begin in range(taken_in, picks, BLOCK_N):
            pick, norm_p, valid = _picks_from(begin, picks, picked, reciprocal_norm, first_row, BLOCK_N)
            others = rows + pick * stride_n
            dot = dot_products(
                rows + n * stride_n, inside, others, valid, first, last, EVEN_D, BLOCK_N, BLOCK_N, BLOCK_D
            )
            if split:
                of_block = first_part(partials + (begin - taken_in) * parts * BLOCK_N, BLOCK_N)
                tl.store(of_block + part * (BLOCK_N * BLOCK_N), dot)
            else:
                nearest = tl.maximum(nearest, tl.max(similarity_of(dot, norm, norm_p), axis=1))
    if split:
        complete = is_last(ticket, parts)
        if complete:
            for begin in range(taken_in, picks, BLOCK_N):
                _, norm_p, _ = _picks_from(begin, picks, picked, reciprocal_norm, first_row, BLOCK_N)
                of_block = first_part(partials + (begin - taken_in) * parts * BLOCK_N, BLOCK_N)
                dot = sum_of_parts(of_block, parts, BLOCK_N)
                nearest = tl.maximum(nearest, tl.max(similarity_of(dot, norm, norm_p), axis=1))
    if complete:
        relevance = tl.zeros([BLOCK_N], tl.float32)
        if METHOD != "divprune":
            relevance = tl.load(importance + n, mask=inside, other=0.0)
        if taken_in == 0:
            # The first score bounds no other.
            first_pick = tl.load(picked) - first_row
            key = tl.where(n == first_pick, PICKED, tl.where(norm != 0.0, UNBOUNDED, NON_FINITE))
        else:
            key = tl.load(keys + n, mask=inside, other=PICKED)
        new_key = key_from(nearest, relevance, relevance_weight, redundancy_weight, METHOD)
        tl.store(keys + n, tl.minimum(key, new_key), mask=inside)
    return complete


@triton.jit
def _pick(
    of_segment,
    reciprocal_norm,
    importance,
    keys,
    chosen,
    gram,
    stride_g,
    indices,
    scores,
    first_row,
    kept,
    relevance_weight,
    redundancy_weight,
    METHOD: tl.constexpr,
    WITH_SCORES: tl.constexpr,
    CANDIDATE_N: tl.constexpr,
    WARPS: tl.constexpr,
):
    """Picks from the candidates as long as the best of them comes before the best row outside; how many are made."""
    candidates = tl.load(of_segment + CANDIDATES)
    outside_key = tl.load(of_segment + OUTSIDE_KEY)
    outside_row = tl.load(of_segment + OUTSIDE_ROW)
    before = tl.load(of_segment + PICKS)
    c = tl.arange(0, CANDIDATE_N)  # [CANDIDATE_N]
    inside = c < candidates
    row = tl.load(chosen + c, mask=inside, other=0)
    key = tl.load(keys + row, mask=inside, other=PICKED)
    relevance = tl.zeros([CANDIDATE_N], tl.float32)
    if METHOD != "divprune":
        relevance = tl.load(importance + row, mask=inside, other=0.0)
    picks = before
    best, place = best_of(key, CANDIDATE_N, WARPS)
    picking = picks < kept
    while picking:
        similarities = tl.load(gram + place * stride_g + c)  # [CANDIDATE_N]
        tl.store(indices + picks, place)
        if WITH_SCORES:
            tl.store(scores + picks, score_of(best))
        picks += 1
        key = tl.where(c == place, PICKED, key)
        key = tl.minimum(key, key_from(similarities, relevance, relevance_weight, redundancy_weight, METHOD))
        best, place = best_of(key, CANDIDATE_N, WARPS)
        picking = (picks < kept) & (best >= outside_key)
        if picking & (best == outside_key):
            picking = tl.load(chosen + place) < outside_row
    tl.debug_barrier()
    # The rows at these places: looked up here, not between one pick and the next.
    new = before + c < picks
    place = tl.load(indices + before + c, mask=new, other=0)
    tl.debug_barrier()
    tl.store(indices + before + c, first_row + tl.load(chosen + place, mask=new, other=0), mask=new)
    tl.store(keys + row, key, mask=inside)
    tl.store(of_segment + TAKEN_IN, before)
    tl.store(of_segment + PICKS, picks)
    return picks


@triton.jit(
    do_not_specialize=[
        "first_segment",
        "segments",
        "count",
        "k",
        "depth",
        "programs",
        "room",
        "rounds",
        "gram_blocks",
        "row_parts",
        "tile_parts",
        "stride_xb",
        "stride_xn",
        "relevance_weight",
        "redundancy_weight",
    ]
)
def candidate_kernel(
    x,
    plan,
    reciprocal_norm,
    importance,
    keys,
    chosen,
    gram,
    partials,
    tickets,
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
    rounds,
    gram_blocks,
    row_parts,
    tile_parts,
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
    """All picks after the first, of all segments side by side, in rounds of two phases.

    In the first, blocks of rows take in the last picks; the last program of a segment to finish chooses its candidates.
    In the second, tiles of candidates are compared; the last program of a segment picks from them. After so many
    rounds there is one candidate at a time.
    """
    program = tl.program_id(0).to(tl.int64)
    of_all = state + segments.to(tl.int64) * STATE_COLUMNS
    stride_n = stride_xn.to(tl.int64) * ALIGNMENT
    width = depth * ALIGNMENT
    blocks = all_units(plan, segments, count, BLOCK_N, False, VARLEN)
    stride_g = tl.cast(gram_blocks, tl.int64) * BLOCK_N
    tiles = gram_blocks * (gram_blocks + 1) // 2
    arrived = tl.full([], 0, tl.int32)
    turn = tl.full([], 0, tl.int32)
    while tl.load(of_all + OPEN_SELECTIONS) > 0:
        for unit in range(program, blocks * row_parts, programs):
            rows = unit // row_parts
            number, block = segment_of(plan, rows, segments, count, BLOCK_N, False, VARLEN)
            segment, first_row, length, kept, slot, workspace_row = segment_at(
                plan, number, first_segment, count, k, VARLEN
            )
            of_segment = state + number * STATE_COLUMNS
            picks = tl.load(of_segment + PICKS)
            if picks < kept:
                last = _take_in(
                    x + segment * stride_xb * ALIGNMENT + first_row * stride_n,
                    stride_n,
                    reciprocal_norm + workspace_row,
                    importance + workspace_row if METHOD != "divprune" else None,
                    keys + workspace_row,
                    indices + slot,
                    tl.load(of_segment + TAKEN_IN),
                    picks,
                    first_row,
                    block * BLOCK_N + tl.arange(0, BLOCK_N),
                    length,
                    width,
                    partials + rows * (row_parts * SPLIT_BLOCKS * BLOCK_N * BLOCK_N),
                    tickets + rows,
                    tl.cast(unit % row_parts, tl.int32),
                    row_parts,
                    relevance_weight,
                    redundancy_weight,
                    METHOD,
                    EVEN_D,
                    BLOCK_N,
                    BLOCK_D,
                )
                if last:
                    last = is_last(of_segment + TICKETS, tl.cdiv(length, BLOCK_N))
                if last:
                    choose(
                        keys + workspace_row,
                        chosen + number * CANDIDATE_N,
                        of_segment,
                        length,
                        tl.where(turn < rounds, room, 1),
                        PICKED,
                        0,
                    )
        arrived += programs
        grid_barrier(of_all + CANDIDATE_ARRIVALS, arrived)
        for unit in range(program, segments.to(tl.int64) * tiles * tile_parts, programs):
            tile = unit // tile_parts
            number = tile // tiles
            segment, first_row, length, kept, slot, workspace_row = segment_at(
                plan, number, first_segment, count, k, VARLEN
            )
            of_segment = state + number * STATE_COLUMNS
            # Parts of a tile beyond the candidates are not waited for: they may read this as it changes, to no effect.
            if tl.load(of_segment + PICKS) < kept:
                last = compare(
                    x + segment * stride_xb * ALIGNMENT + first_row * stride_n,
                    stride_n,
                    reciprocal_norm + workspace_row,
                    chosen + number * CANDIDATE_N,
                    tl.load(of_segment + CANDIDATES),
                    gram + number * stride_g * stride_g,
                    stride_g,
                    tile % tiles,
                    width,
                    partials + tile * (tile_parts * BLOCK_N * BLOCK_N),
                    tickets + tile,
                    tl.cast(unit % tile_parts, tl.int32),
                    tile_parts,
                    EVEN_D,
                    BLOCK_N,
                    BLOCK_D,
                )
                if last:
                    last = is_last(of_segment + TICKETS, tiles)
                if last:
                    made = _pick(
                        of_segment,
                        reciprocal_norm + workspace_row,
                        importance + workspace_row if METHOD != "divprune" else None,
                        keys + workspace_row,
                        chosen + number * CANDIDATE_N,
                        gram + number * stride_g * stride_g,
                        stride_g,
                        indices + slot,
                        scores + slot if WITH_SCORES else None,
                        first_row,
                        kept,
                        relevance_weight,
                        redundancy_weight,
                        METHOD,
                        WITH_SCORES,
                        CANDIDATE_N,
                        WARPS,
                    )
                    if made == kept:
                        tl.atomic_add(of_all + OPEN_SELECTIONS, -1, sem="relaxed")
        arrived += programs
        grid_barrier(of_all + CANDIDATE_ARRIVALS, arrived)
        turn += 1
