"""The similarity of two rows, and the pass over all pairs of rows."""

import triton
import triton.language as tl

from .grid import last_to_arrive
from .segments import ROW_ALIGNMENT, all_units, segment_at, segment_of

CHUNK = tl.constexpr(1024)
"""The tensor core sums this many elements of D. The sums of chunks are added in float32 outside it.

This bounds the truncation of the tensor core, and makes the order of the sum the same for every tile. It is also the
part of D that one program takes under split-K.
"""

GROUP_M = tl.constexpr(8)
"""Width of the swizzle: programs side by side work on tiles of few rows and columns, so that they share rows in L2."""

_INTERPRETED = tl.constexpr(triton.knobs.runtime.interpret)
# The interpreter multiplies with numpy, whose order of summation depends on the shape. In float64 that does not show.
_ACCUMULATOR = tl.constexpr(tl.float64 if triton.knobs.runtime.interpret else tl.float32)


@triton.jit
def _load_block(rows, inside, d, D, EVEN_D: tl.constexpr):
    """Elements d of the given rows, ``[BLOCK_N, BLOCK_D]``, and zeros outside."""
    if EVEN_D:
        return tl.load(rows[:, None] + d[None, :], mask=inside[:, None], other=0.0)
    return tl.load(rows[:, None] + d[None, :], mask=inside[:, None] & (d < D)[None, :], other=0.0)


@triton.jit
def dot_products(
    rows_i,
    inside_i,
    rows_j,
    inside_j,
    first,
    last,
    EVEN_D: tl.constexpr,
    BLOCK_I: tl.constexpr,
    BLOCK_J: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """The dot products of rows i and j over elements ``first`` to ``last``, float32 ``[BLOCK_I, BLOCK_J]``.

    Every form computes its dot products here, so that all forms see the same bits.
    """
    dot = tl.zeros([BLOCK_I, BLOCK_J], tl.float32)
    for chunk in range(first, last, CHUNK):
        partial = tl.zeros([BLOCK_I, BLOCK_J], _ACCUMULATOR)
        for begin in range(chunk, tl.minimum(chunk + CHUNK, last), BLOCK_D):
            d = begin + tl.arange(0, BLOCK_D)  # [BLOCK_D]
            a = _load_block(rows_i, inside_i, d, last, EVEN_D)  # [BLOCK_I, BLOCK_D]
            b = _load_block(rows_j, inside_j, d, last, EVEN_D)  # [BLOCK_J, BLOCK_D]
            if _INTERPRETED:
                # The interpreter holds bfloat16 as integers and would multiply their bits.
                a = a.to(tl.float32).to(_ACCUMULATOR)
                b = b.to(tl.float32).to(_ACCUMULATOR)
            partial = tl.dot(a, tl.trans(b), partial, input_precision="ieee", out_dtype=_ACCUMULATOR)
        dot += partial.to(tl.float32)
    return dot


@triton.jit
def elements_of(split, is_split, D):
    """Returns the first element of a split of D and the one behind its last, or of all of D where it is not split.

    The first is a multiple of the constant CHUNK, so that the compiler sees that loads are 16-byte aligned.
    """
    first = tl.where(is_split, split, 0) * CHUNK
    return first, tl.where(is_split, tl.minimum(first + CHUNK, D), D)


@triton.jit
def partial_tile(partial_sums, BLOCK_N: tl.constexpr):
    """The addresses of a tile's dot products over the first split of D, ``[BLOCK_N, BLOCK_N]``.

    The tiles of the other splits follow, each BLOCK_N * BLOCK_N further.
    """
    n = tl.arange(0, BLOCK_N)  # [BLOCK_N]
    return partial_sums + n[:, None] * BLOCK_N + n[None, :]


@triton.jit
def sum_of_splits(first, splits, BLOCK_N: tl.constexpr):
    """Adds the splits of D, in the order in which one program adds the chunks."""
    dot = tl.zeros([BLOCK_N, BLOCK_N], tl.float32)
    for split in range(0, splits):
        dot += tl.load(first + split * (BLOCK_N * BLOCK_N))
    return dot


@triton.jit
def similarity_of(dot, reciprocal_norm_i, reciprocal_norm_j):
    """The cosines of rows i and j, or -inf where a row is not finite.

    The two reciprocal norms are multiplied first, which makes the result symmetric. The clamp catches dot products that
    overflow although the sums of squares do not.
    """
    scale = reciprocal_norm_i[:, None] * reciprocal_norm_j[None, :]
    finite = (reciprocal_norm_i != 0.0)[:, None] & (reciprocal_norm_j != 0.0)[None, :]
    return tl.where(finite, tl.minimum(tl.maximum(dot * scale, -1.0), 1.0), float("-inf"))


@triton.jit
def triangle_tile(number):
    """Returns row and column of the ``number``-th tile on and above the diagonal, column by column."""
    column = ((tl.sqrt(8.0 * number.to(tl.float32) + 1.0) - 1.0) * 0.5).to(tl.int64)
    # The rounded square root of a large number may be off by one.
    column -= (column * (column + 1) // 2 > number).to(tl.int64)
    column += ((column + 1) * (column + 2) // 2 <= number).to(tl.int64)
    return number - column * (column + 1) // 2, column


@triton.jit
def _swizzled_tile(number, tiles):
    """Likewise, but row by row within GROUP_M columns at a time."""
    _, column = triangle_tile(number)
    first = column // GROUP_M * GROUP_M
    inside = number - first * (first + 1) // 2
    columns = tl.minimum(GROUP_M, tiles - first)
    row, column = triangle_tile(tl.maximum(inside - first * columns, 0))
    above = inside < first * columns
    return tl.where(above, inside // columns, first + row), first + tl.where(above, inside % columns, column)


@triton.jit(
    do_not_specialize=[
        "first_segment",
        "segments",
        "count",
        "d_units",
        "programs",
        "splits",
        "capacity",
        "stride_xb",
        "stride_xn",
        "stride_sn",
    ]
)
def similarity_kernel(
    x,
    plan,
    reciprocal_norm,
    similarity,
    row_maximum,
    partial_sums,
    arrival_counters,
    first_segment,
    segments,
    count,
    d_units,
    programs,
    splits,
    capacity,
    stride_xb,
    stride_xn,
    stride_sn,
    WITH_ROW_MAXIMUM: tl.constexpr,
    VARLEN: tl.constexpr,
    ALIGNMENT: tl.constexpr,
    EVEN_D: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """Writes the similarities of all pairs of a segment's rows, and each row's maximum over the other rows of a tile.

    A unit of work is a tile on or above the diagonal, whose transpose is stored too. Under split-K a unit is one chunk
    of a tile's D, and the last program to arrive at the tile adds the chunks in order.
    """
    D = d_units * ALIGNMENT
    stride_n = stride_xn.to(tl.int64) * ALIGNMENT
    stride_s = stride_sn.to(tl.int64) * ROW_ALIGNMENT
    n = tl.arange(0, BLOCK_N)  # [BLOCK_N]
    units = all_units(plan, segments, count, BLOCK_N, True, VARLEN) * splits
    for unit in range(tl.program_id(0).to(tl.int64), units, programs):
        tile = unit // splits
        number, tile_of_segment = segment_of(plan, tile, segments, count, BLOCK_N, True, VARLEN)
        segment, first_row, length, _, _, workspace_row = segment_at(plan, number, first_segment, count, 0, VARLEN)
        tile_i, tile_j = _swizzled_tile(tile_of_segment, tl.cdiv(length, BLOCK_N))
        i = tile_i * BLOCK_N + n  # [BLOCK_N]
        j = tile_j * BLOCK_N + n  # [BLOCK_N]
        base = x + segment * stride_xb * ALIGNMENT + first_row * stride_n
        first, last = elements_of(tl.cast(unit % splits, tl.int32), splits > 1, D)
        dot = dot_products(
            base + i * stride_n,
            i < length,
            base + j * stride_n,
            j < length,
            first,
            last,
            EVEN_D,
            BLOCK_N,
            BLOCK_N,
            BLOCK_D,
        )
        complete = splits == 1
        if splits > 1:
            of_tile = partial_tile(partial_sums + tile * splits * (BLOCK_N * BLOCK_N), BLOCK_N)
            tl.store(of_tile + (unit % splits) * (BLOCK_N * BLOCK_N), dot)
            complete = last_to_arrive(arrival_counters + tile, splits)
            if complete:
                dot = sum_of_splits(of_tile, splits, BLOCK_N)
        if complete:
            norm_i = tl.load(reciprocal_norm + workspace_row + i, mask=i < length, other=0.0)
            norm_j = tl.load(reciprocal_norm + workspace_row + j, mask=j < length, other=0.0)
            values = similarity_of(dot, norm_i, norm_j)  # [BLOCK_N, BLOCK_N]
            mask = (i < length)[:, None] & (j < length)[None, :]
            tl.store(similarity + (workspace_row + i)[:, None] * stride_s + j[None, :], values, mask=mask)
            if tile_i < tile_j:
                transposed = similarity + (workspace_row + j)[:, None] * stride_s + i[None, :]
                tl.store(transposed, tl.trans(values), mask=tl.trans(mask))
            if WITH_ROW_MAXIMUM:
                others = tl.where(i[:, None] == j[None, :], float("-inf"), values)
                maxima = row_maximum + workspace_row
                stride_m = capacity.to(tl.int64) * ROW_ALIGNMENT
                tl.store(maxima + tile_j * stride_m + i, tl.max(others, axis=1), mask=i < length)
                if tile_i < tile_j:
                    tl.store(maxima + tile_i * stride_m + j, tl.max(others, axis=0), mask=j < length)
