"""The similarity of two rows, and the pass that materialises those of all pairs."""

import triton
import triton.language as tl

from .grid import is_last
from .segments import ROW_ALIGNMENT, all_units, segment_at, segment_of

CHUNK = tl.constexpr(1024)
"""D is summed in chunks of this many elements, each added in float32 outside the tensor core.

This bounds the tensor core's truncation and fixes the order of the sum, whatever the tile.
"""

BAND = tl.constexpr(8)
"""Columns of tiles whose rows are worked through together, so that programs side by side share rows of x."""

_INTERPRETED = tl.constexpr(triton.knobs.runtime.interpret)
# The interpreter's products are numpy's, whose order of summation changes with the shape: float64 hides it.
_ACCUMULATOR = tl.constexpr(tl.float64 if triton.knobs.runtime.interpret else tl.float32)


@triton.jit
def _load_block(rows, inside, d, width, EVEN_D: tl.constexpr):
    """Elements d of the given rows, ``[BLOCK_N, BLOCK_D]``; zeros outside."""
    if EVEN_D:
        return tl.load(rows[:, None] + d[None, :], mask=inside[:, None], other=0.0)
    return tl.load(rows[:, None] + d[None, :], mask=inside[:, None] & (d < width)[None, :], other=0.0)


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
    """The sums over elements ``first`` to ``last`` of the products of rows, float32 ``[BLOCK_I, BLOCK_J]``.

    Every form of the algorithms multiplies here, so that all of them see the same bits.
    """
    dot = tl.zeros([BLOCK_I, BLOCK_J], tl.float32)
    for chunk in range(first, last, CHUNK):
        partial = tl.zeros([BLOCK_I, BLOCK_J], _ACCUMULATOR)
        for begin in range(chunk, tl.minimum(chunk + CHUNK, last), BLOCK_D):
            d = begin + tl.arange(0, BLOCK_D)  # [BLOCK_D]
            a = _load_block(rows_i, inside_i, d, last, EVEN_D)  # [BLOCK_I, BLOCK_D]
            b = _load_block(rows_j, inside_j, d, last, EVEN_D)  # [BLOCK_J, BLOCK_D]
            if _INTERPRETED:
                # The interpreter would multiply the bits of bfloat16 operands.
                a = a.to(tl.float32).to(_ACCUMULATOR)
                b = b.to(tl.float32).to(_ACCUMULATOR)
            partial = tl.dot(a, tl.trans(b), partial, input_precision="ieee", out_dtype=_ACCUMULATOR)
        dot += partial.to(tl.float32)
    return dot


@triton.jit
def first_part(partials, BLOCK_N: tl.constexpr):
    """Where dot products over the first part of D are left, ``[BLOCK_N, BLOCK_N]``; others lie behind it."""
    n = tl.arange(0, BLOCK_N)  # [BLOCK_N]
    return partials + n[:, None] * BLOCK_N + n[None, :]


@triton.jit
def sum_of_parts(first, parts, BLOCK_N: tl.constexpr):
    """The dot products over all of D: in the order in which one program would have added them."""
    dot = tl.zeros([BLOCK_N, BLOCK_N], tl.float32)
    for part in range(0, parts):
        dot += tl.load(first + part * (BLOCK_N * BLOCK_N))
    return dot


@triton.jit
def similarity_of(dot, reciprocal_norm_i, reciprocal_norm_j):
    """Symmetric in i and j: the two reciprocal norms are multiplied first. -inf where a row is non-finite.

    Clamped, because the dot product of two rows whose sums of squares are next to the largest float can be infinite.
    """
    scale = reciprocal_norm_i[:, None] * reciprocal_norm_j[None, :]
    finite = (reciprocal_norm_i != 0.0)[:, None] & (reciprocal_norm_j != 0.0)[None, :]
    return tl.where(finite, tl.minimum(tl.maximum(dot * scale, -1.0), 1.0), float("-inf"))


@triton.jit
def triangle_tile(number):
    """Row and column of the ``number``-th tile on and above the diagonal, column by column."""
    column = ((tl.sqrt(8.0 * number.to(tl.float32) + 1.0) - 1.0) * 0.5).to(tl.int64)
    # The square root of a large number may be off by one.
    column -= (column * (column + 1) // 2 > number).to(tl.int64)
    column += ((column + 1) * (column + 2) // 2 <= number).to(tl.int64)
    return number - column * (column + 1) // 2, column


@triton.jit
def _banded_tile(number, tiles):
    """Likewise, BAND columns at a time, row by row."""
    _, column = triangle_tile(number)
    first = column // BAND * BAND
    inside = number - first * (first + 1) // 2
    width = tl.minimum(BAND, tiles - first)
    row, column = triangle_tile(tl.maximum(inside - first * width, 0))
    above = inside < first * width
    return tl.where(above, inside // width, first + row), first + tl.where(above, inside % width, column)


@triton.jit(
    do_not_specialize=[
        "first_segment",
        "segments",
        "count",
        "depth",
        "programs",
        "parts",
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
    partials,
    tickets,
    first_segment,
    segments,
    count,
    depth,
    programs,
    parts,
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
    """The similarities of all pairs of a segment's rows, and each row's maximum over the other rows of a tile.

    A unit of work is a tile on or above the diagonal, whose transpose is stored too. Of several parts of D, each is a
    unit, a chunk long, and the last program to finish one of a tile's parts adds these up in order.
    """
    width = depth * ALIGNMENT
    stride_n = stride_xn.to(tl.int64) * ALIGNMENT
    stride_s = stride_sn.to(tl.int64) * ROW_ALIGNMENT
    n = tl.arange(0, BLOCK_N)  # [BLOCK_N]
    units = all_units(plan, segments, count, BLOCK_N, True, VARLEN) * parts
    for unit in range(tl.program_id(0).to(tl.int64), units, programs):
        tile = unit // parts
        number, tile_of_segment = segment_of(plan, tile, segments, count, BLOCK_N, True, VARLEN)
        segment, first_row, length, _, _, workspace_row = segment_at(plan, number, first_segment, count, 0, VARLEN)
        tile_i, tile_j = _banded_tile(tile_of_segment, tl.cdiv(length, BLOCK_N))
        i = tile_i * BLOCK_N + n  # [BLOCK_N]
        j = tile_j * BLOCK_N + n  # [BLOCK_N]
        base = x + segment * stride_xb * ALIGNMENT + first_row * stride_n
        # Of a constant, so that the compiler sees that it is a multiple of 16 bytes.
        first = tl.cast(unit % parts, tl.int32) * CHUNK
        last = tl.where(parts > 1, tl.minimum(first + CHUNK, width), width)
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
        complete = parts == 1
        if parts > 1:
            of_tile = first_part(partials + tile * parts * (BLOCK_N * BLOCK_N), BLOCK_N)
            tl.store(of_tile + (unit % parts) * (BLOCK_N * BLOCK_N), dot)
            complete = is_last(tickets + tile, parts)
            if complete:
                dot = sum_of_parts(of_tile, parts, BLOCK_N)
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
