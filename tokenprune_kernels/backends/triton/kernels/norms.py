"""The norms of the rows, and which rows are finite."""

import triton
import triton.language as tl

from .segments import segment_at

NORM_BLOCK_N = tl.constexpr(16)
NORM_BLOCK_D = tl.constexpr(256)
"""The block of the row norms fixes the order of their sums. So it is no launch knob."""


@triton.jit
def sums_by_pairs(values, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """Pairwise row sums. A plain tl.sum adds in an order that depends on the layout, hence on x's alignment.

    ``COLUMNS`` is a power of two up to 2^16.
    """
    for fold in tl.static_range(16):
        if (COLUMNS >> fold) > 1:
            values = tl.sum(tl.reshape(values, [ROWS, 2, COLUMNS >> (fold + 1)]), axis=1)
    return tl.reshape(values, [ROWS])


@triton.jit(
    do_not_specialize=["first_segment", "count", "d_units", "blocks", "stride_xb", "stride_xn"],
    do_not_specialize_on_alignment=["weight"],
)
def row_norm_kernel(
    x,
    weight,
    plan,
    reciprocal_norm,
    relevance,
    first_segment,
    count,
    d_units,
    blocks,
    stride_xb,
    stride_xn,
    HAS_WEIGHT: tl.constexpr,
    VARLEN: tl.constexpr,
    ALIGNMENT: tl.constexpr,
):
    """Writes ``1 / max(|x|, 1e-12)`` of a block of rows, or 0 where a row is not finite, and its weight in float32.

    The weight of a row that is not finite becomes 0.
    """
    program = tl.program_id(0).to(tl.int64)
    segment, first_row, length, _, _, workspace_row = segment_at(
        plan, program // blocks, first_segment, count, 0, VARLEN
    )
    n = (program % blocks) * NORM_BLOCK_N + tl.arange(0, NORM_BLOCK_N)  # [NORM_BLOCK_N]
    inside = n < length
    stride_n = stride_xn.to(tl.int64) * ALIGNMENT
    rows = x + segment * stride_xb * ALIGNMENT + (first_row + n) * stride_n
    D = d_units * ALIGNMENT
    squares = tl.zeros([NORM_BLOCK_N, NORM_BLOCK_D], tl.float32)
    for begin in range(0, D, NORM_BLOCK_D):
        d = begin + tl.arange(0, NORM_BLOCK_D)  # [NORM_BLOCK_D]
        mask = inside[:, None] & (d < D)[None, :]
        values = tl.load(rows[:, None] + d[None, :], mask=mask, other=0.0).to(tl.float32)
        squares += values * values
    sum_of_squares = sums_by_pairs(squares, NORM_BLOCK_N, NORM_BLOCK_D)
    # Products and sums keep Inf and NaN. So the sum is finite only if every element is.
    finite = sum_of_squares < float("inf")
    if HAS_WEIGHT:
        weights = tl.load(weight + segment * count + first_row + n, mask=inside, other=0.0).to(tl.float32)
        finite = finite & (tl.abs(weights) < float("inf"))
        tl.store(relevance + workspace_row + n, tl.where(finite, weights, 0.0), mask=inside)
    norm = tl.maximum(tl.sqrt_rn(sum_of_squares), 1e-12)
    tl.store(reciprocal_norm + workspace_row + n, tl.where(finite, tl.div_rn(1.0, norm), 0.0), mask=inside)
