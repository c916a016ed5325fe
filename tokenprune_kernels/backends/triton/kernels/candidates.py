"""The candidates of a round: the rows of a segment with the best keys, and the Gram matrix of these rows."""

import triton
import triton.language as tl

from .grid import last_to_arrive
from .scores import LARGEST_ROW, NO_KEY, NON_FINITE, PICKED, comes_before
from .similarity import dot_products, elements_of, partial_tile, similarity_of, sum_of_splits, triangle_tile
from .state import BEST_OUTSIDE_KEY, BEST_OUTSIDE_ROW, CANDIDATE_COUNT

CHOICE_BLOCK_N = tl.constexpr(1024)
"""How many keys a program reads at a time."""

_BINS = tl.constexpr(128)


@triton.jit
def _bin_of(key, bottom, scale):
    """The histogram bin of a key in a range. It rises with the key; the two ends of the range get different bins."""
    share = (key.to(tl.int64) - bottom).to(tl.float32) * scale
    return tl.minimum(tl.maximum(share, 0.0), _BINS - 1.0).to(tl.int32)


@triton.jit
def _scale_of(bottom, top):
    """Bins per key of the range from bottom to top."""
    return _BINS / ((top - bottom).to(tl.float32) + 1.0)


@triton.jit
def _keys_at(keys, n, length, best_key, best_row):
    """Returns the keys of rows n, and whether they come before the best row so far."""
    key = tl.load(keys + n, mask=n < length, other=PICKED)
    return key, (n < length) & comes_before(key, n, best_key, best_row)


@triton.jit
def choose_candidates(keys, candidate_rows, segment_state, length, max_candidates, best_key, best_row):
    """Writes up to ``max_candidates`` rows with the best keys, in index order, and the best row outside to the state.

    Only rows that come before the given best row are eligible. More than ``max_candidates / 2`` rows are chosen if as
    many are eligible. Rows that are not finite are chosen only if no others are eligible. Returns how many rows are
    chosen, and the largest eligible key.
    """
    length = length.to(tl.int32)
    block = tl.arange(0, CHOICE_BLOCK_N)  # [CHOICE_BLOCK_N]
    highest = tl.full([CHOICE_BLOCK_N], PICKED, tl.int32)
    lowest = tl.full([CHOICE_BLOCK_N], NO_KEY, tl.int32)
    for begin in range(0, length, CHOICE_BLOCK_N):
        key, eligible = _keys_at(keys, begin + block, length, best_key, best_row)
        highest = tl.maximum(highest, tl.where(eligible, key, PICKED))
        lowest = tl.minimum(lowest, tl.where(eligible & (key > NON_FINITE), key, NO_KEY))
    top = tl.max(highest, axis=0).to(tl.int64)
    bottom = tl.minimum(tl.min(lowest, axis=0).to(tl.int64), top)

    # Keys above the range are chosen. Each pass narrows the range to one bin of its histogram, until enough are chosen.
    above = tl.full([], 0, tl.int32)
    tied = tl.full([], 0, tl.int32)
    first_bin = tl.full([], 0, tl.int32)
    searching = top > PICKED
    while searching:
        scale = _scale_of(bottom, top)
        histogram = tl.zeros([_BINS], tl.int32)
        for begin in range(0, length, CHOICE_BLOCK_N):
            key, eligible = _keys_at(keys, begin + block, length, best_key, best_row)
            inside = eligible & (key >= bottom) & (key <= top)
            histogram += tl.histogram(tl.where(inside, _bin_of(key, bottom, scale), 0), _BINS, mask=inside)
        from_top = above + tl.sum(histogram, axis=0) - tl.cumsum(histogram, 0) + histogram  # [_BINS]
        fits = from_top <= max_candidates
        first_bin = tl.sum((from_top > max_candidates).to(tl.int32), axis=0)
        fitting = tl.max(tl.where(fits, from_top, above), axis=0)
        if (first_bin == 0) | (2 * fitting > max_candidates):
            searching = False
        elif bottom == top:
            tied += 1
            searching = False
        else:
            highest = tl.full([CHOICE_BLOCK_N], PICKED, tl.int32)
            lowest = tl.full([CHOICE_BLOCK_N], NO_KEY, tl.int32)
            for begin in range(0, length, CHOICE_BLOCK_N):
                key, eligible = _keys_at(keys, begin + block, length, best_key, best_row)
                inside = eligible & (key >= bottom) & (key <= top)
                inside = inside & (_bin_of(key, bottom, scale) == first_bin - 1)
                highest = tl.maximum(highest, tl.where(inside, key, PICKED))
                lowest = tl.minimum(lowest, tl.where(inside, key, NO_KEY))
            above = fitting
            top = tl.max(highest, axis=0).to(tl.int64)
            bottom = tl.min(lowest, axis=0).to(tl.int64)

    scale = _scale_of(bottom, top)
    count = tl.full([], 0, tl.int32)
    ties = tl.full([], 0, tl.int32)
    outside_key = tl.full([CHOICE_BLOCK_N], PICKED, tl.int32)
    outside_row = tl.full([CHOICE_BLOCK_N], LARGEST_ROW, tl.int32)
    for begin in range(0, length, CHOICE_BLOCK_N):
        n = begin + block
        key, eligible = _keys_at(keys, n, length, best_key, best_row)
        inside = eligible & (key >= bottom) & (key <= top)
        best = eligible & ((key > top) | (inside & (_bin_of(key, bottom, scale) >= first_bin)))
        if tied > 0:
            # Rows with equal keys: the first ones are chosen.
            rank = ties + tl.cumsum(inside.to(tl.int32), 0)
            best = best | (inside & (rank <= max_candidates - above))
            ties += tl.sum(inside.to(tl.int32), axis=0)
        place = count + tl.cumsum(best.to(tl.int32), 0) - 1
        tl.store(candidate_rows + place, n, mask=best)
        count += tl.sum(best.to(tl.int32), axis=0)
        better = eligible & ~best & (key > outside_key)
        outside_key = tl.where(better, key, outside_key)
        outside_row = tl.where(better, n, outside_row)
    best_outside_key = tl.max(outside_key, axis=0)
    tl.store(segment_state + CANDIDATE_COUNT, count)
    tl.store(segment_state + BEST_OUTSIDE_KEY, best_outside_key)
    tl.store(
        segment_state + BEST_OUTSIDE_ROW,
        tl.min(tl.where(outside_key == best_outside_key, outside_row, LARGEST_ROW), axis=0),
    )
    return count, top


@triton.jit
def gram_tile(
    rows,
    stride_n,
    reciprocal_norm,
    candidate_rows,
    candidate_count,
    gram,
    stride_g,
    tile,
    D,
    partial_sums,
    arrival_counter,
    split,
    splits,
    EVEN_D: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """Writes a tile of the candidates' Gram matrix, and its transpose. The tile has candidates.

    Returns True in the program that completed the tile: under split-K, the last one to arrive.
    """
    tile_i, tile_j = triangle_tile(tile)
    n = tl.arange(0, BLOCK_N)  # [BLOCK_N]
    i = tile_i * BLOCK_N + n
    j = tile_j * BLOCK_N + n
    row_i = tl.load(candidate_rows + i, mask=i < candidate_count, other=0).to(tl.int64)
    row_j = tl.load(candidate_rows + j, mask=j < candidate_count, other=0).to(tl.int64)
    first, last = elements_of(split, splits > 1, D)
    dot = dot_products(
        rows + row_i * stride_n,
        i < candidate_count,
        rows + row_j * stride_n,
        j < candidate_count,
        first,
        last,
        EVEN_D,
        BLOCK_N,
        BLOCK_N,
        BLOCK_D,
    )
    complete = splits == 1
    if splits > 1:
        of_tile = partial_tile(partial_sums, BLOCK_N)
        tl.store(of_tile + split * (BLOCK_N * BLOCK_N), dot)
        complete = last_to_arrive(arrival_counter, splits)
        if complete:
            dot = sum_of_splits(of_tile, splits, BLOCK_N)
    if complete:
        norm_i = tl.load(reciprocal_norm + row_i)
        norm_j = tl.load(reciprocal_norm + row_j)
        values = similarity_of(dot, norm_i, norm_j)  # [BLOCK_N, BLOCK_N]
        tl.store(gram + i[:, None] * stride_g + j[None, :], values)
        if tile_i < tile_j:
            tl.store(gram + j[:, None] * stride_g + i[None, :], tl.trans(values))
    return complete
