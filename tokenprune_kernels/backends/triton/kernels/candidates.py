"""The candidates of a round: which rows of a segment have the best keys, and the similarities among them."""

import triton
import triton.language as tl

from .grid import is_last
from .scores import LARGEST_ROW, NO_KEY, NON_FINITE, PICKED, comes_before
from .similarity import CHUNK, dot_products, first_part, similarity_of, sum_of_parts, triangle_tile
from .state import CANDIDATES, OUTSIDE_KEY, OUTSIDE_ROW

CHOICE_BLOCK_N = tl.constexpr(1024)
"""Rows looked at at a time."""

_BINS = tl.constexpr(128)


@triton.jit
def _bin_of(key, bottom, scale):
    """Rises with the key, from 0 at the bottom of a range; keys at its two ends are in different bins."""
    share = (key.to(tl.int64) - bottom).to(tl.float32) * scale
    return tl.minimum(tl.maximum(share, 0.0), _BINS - 1.0).to(tl.int32)


@triton.jit
def _scale_of(bottom, top):
    return _BINS / ((top - bottom).to(tl.float32) + 1.0)


@triton.jit
def _keys_at(keys, n, length, best_key, best_row):
    """Keys of rows, and whether these come before the best so far."""
    key = tl.load(keys + n, mask=n < length, other=PICKED)
    return key, (n < length) & comes_before(key, n, best_key, best_row)


@triton.jit
def choose(keys, chosen, of_segment, length, room, best_key, best_row):
    """Lists up to ``room`` rows with the best keys in index order, and notes the best row that is not among them.

    More than half the room is filled, where there are as many rows. Only those are looked at that come before the best
    so far; non-finite ones are chosen only where there are no others. Returns how many there are, and the largest key.
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

    # The keys above the range are chosen; the range shrinks until it is known how far down one can go.
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
        fits = from_top <= room
        first_bin = tl.sum((from_top > room).to(tl.int32), axis=0)
        fitting = tl.max(tl.where(fits, from_top, above), axis=0)
        if (first_bin == 0) | (2 * fitting > room):
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
            # Of rows with the same key, the first ones.
            rank = ties + tl.cumsum(inside.to(tl.int32), 0)
            best = best | (inside & (rank <= room - above))
            ties += tl.sum(inside.to(tl.int32), axis=0)
        place = count + tl.cumsum(best.to(tl.int32), 0) - 1
        tl.store(chosen + place, n, mask=best)
        count += tl.sum(best.to(tl.int32), axis=0)
        better = eligible & ~best & (key > outside_key)
        outside_key = tl.where(better, key, outside_key)
        outside_row = tl.where(better, n, outside_row)
    best_outside = tl.max(outside_key, axis=0)
    tl.store(of_segment + CANDIDATES, count)
    tl.store(of_segment + OUTSIDE_KEY, best_outside)
    tl.store(of_segment + OUTSIDE_ROW, tl.min(tl.where(outside_key == best_outside, outside_row, LARGEST_ROW), axis=0))
    return count, top


@triton.jit
def compare(
    rows,
    stride_n,
    reciprocal_norm,
    chosen,
    candidates,
    gram,
    stride_g,
    tile,
    width,
    partials,
    ticket,
    part,
    parts,
    EVEN_D: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """A tile of the candidates' similarities, and its transpose; whether this program is the one that speaks for it."""
    tile_i, tile_j = triangle_tile(tile)
    complete = part == 0
    if tile_j * BLOCK_N < candidates:
        n = tl.arange(0, BLOCK_N)  # [BLOCK_N]
        i = tile_i * BLOCK_N + n
        j = tile_j * BLOCK_N + n
        row_i = tl.load(chosen + i, mask=i < candidates, other=0).to(tl.int64)
        row_j = tl.load(chosen + j, mask=j < candidates, other=0).to(tl.int64)
        dot = dot_products(
            rows + row_i * stride_n,
            i < candidates,
            rows + row_j * stride_n,
            j < candidates,
            part * CHUNK,
            tl.where(parts > 1, tl.minimum(part * CHUNK + CHUNK, width), width),
            EVEN_D,
            BLOCK_N,
            BLOCK_N,
            BLOCK_D,
        )
        if parts > 1:
            of_tile = first_part(partials, BLOCK_N)
            tl.store(of_tile + part * (BLOCK_N * BLOCK_N), dot)
            complete = is_last(ticket, parts)
            if complete:
                dot = sum_of_parts(of_tile, parts, BLOCK_N)
        if complete:
            norm_i = tl.load(reciprocal_norm + row_i)
            norm_j = tl.load(reciprocal_norm + row_j)
            values = similarity_of(dot, norm_i, norm_j)  # [BLOCK_N, BLOCK_N]
            tl.store(gram + i[:, None] * stride_g + j[None, :], values)
            if tile_i < tile_j:
                tl.store(gram + j[:, None] * stride_g + i[None, :], tl.trans(values))
    return complete
