"""The norms of rows, and which rows are not finite."""

import triton
import triton.language as tl

from .segments import segment_at

NORM_BLOCK_N = tl.constexpr(16)
NORM_BLOCK_D = tl.constexpr(256)
"""The block of the row norms: not a knob, because it fixes the order of their sums."""


@triton.jit
def sums_by_pairs(values, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """Sums of rows, folded by pairs: the order of a longer reduction depends on the layout, and that on x's alignment.

    ``COLUMNS`` is a power of two up to 2^16.
    """
    for fold in tl.static_range(16):
        if (COLUMNS >> fold) > 1:
            values = tl.sum(tl.reshape(values, [ROWS, 2, COLUMNS >> (fold + 1)]), axis=1)
    return tl.reshape(values, [ROWS])


@triton.jit(
    do_not_specialize=["first_segment", "count", "depth", "blocks", "stride_xb", "stride_xn"],
    do_not_specialize_on_alignment=["weight"],
)
def row_norm_kernel(
    x,
    weight,
    plan,
    reciprocal_norm,
    importance,
    first_segment,
    count,
    depth,
    blocks,
    stride_xb,
    stride_xn,
    HAS_WEIGHT: tl.constexpr,
    VARLEN: tl.constexpr,
    ALIGNMENT: tl.constexpr,
):
    """``1 / max(|x|, 1e-12)`` of a block of rows, 0 marking a non-finite row, and their weights in float32."""
    program = tl.program_id(0).to(tl.int64)
    segment, first_row, length, _, _, workspace_row = segment_at(
        plan, program // blocks, first_segment, count, 0, VARLEN
    )
    n = (program % blocks) * NORM_BLOCK_N + tl.arange(0, NORM_BLOCK_N)  # [NORM_BLOCK_N]
    inside = n < length
    stride_n = stride_xn.to(tl.int64) * ALIGNMENT
    rows = x + segment * stride_xb * ALIGNMENT + (first_row + n) * stride_n
    width = depth * ALIGNMENT
    squares = tl.zeros([NORM_BLOCK_N, NORM_BLOCK_D], tl.float32)
    for begin in range(0, width, NORM_BLOCK_D):
        d = begin + tl.arange(0, NORM_BLOCK_D)  # [NORM_BLOCK_D]
        mask = inside[:, None] & (d < width)[None, :]
        values = tl.load(rows[:, None] + d[None, :], mask=mask, other=0.0).to(tl.float32)
        squares += values * values
    sum_of_squares = sums_by_pairs(squares, NORM_BLOCK_N, NORM_BLOCK_D)
    # Not finite whenever an element is not: products and sums keep Inf and NaN.
    finite = sum_of_squares < float("inf")
    if HAS_WEIGHT:
        weights = tl.load(weight + segment * count + first_row + n, mask=inside, other=0.0).to(tl.float32)
        finite = finite & (tl.abs(weights) < float("inf"))
        tl.store(importance + workspace_row + n, tl.where(finite, weights, 0.0), mask=inside)
    norm = tl.maximum(tl.sqrt_rn(sum_of_squares), 1e-12)
    tl.store(reciprocal_norm + workspace_row + n, tl.where(finite, tl.div_rn(1.0, norm), 0.0), mask=inside)
