"""The similarities of the rows of one tensor to those of another, for a selection over several processes."""

import triton
import triton.language as tl

from .similarity import dot_products, similarity_of


@triton.jit(do_not_specialize=["count_x", "count_y", "d_units", "stride_xn", "stride_yn"])
def cross_similarity_kernel(
    x,
    y,
    norm_x,
    norm_y,
    similarity,
    count_x,
    count_y,
    d_units,
    stride_xn,
    stride_yn,
    ALIGNMENT: tl.constexpr,
    EVEN_D: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """Writes one tile of the similarities ``[count_x, count_y]``. Programs side by side share their rows of x."""
    tiles_y = tl.cdiv(count_y, BLOCK_N)
    n = tl.arange(0, BLOCK_N)  # [BLOCK_N]
    i = (tl.program_id(0) // tiles_y).to(tl.int64) * BLOCK_N + n
    j = (tl.program_id(0) % tiles_y).to(tl.int64) * BLOCK_N + n
    dot = dot_products(
        x + i * (stride_xn.to(tl.int64) * ALIGNMENT),
        i < count_x,
        y + j * (stride_yn.to(tl.int64) * ALIGNMENT),
        j < count_y,
        0,
        d_units * ALIGNMENT,
        EVEN_D,
        BLOCK_N,
        BLOCK_N,
        BLOCK_D,
    )
    norm_i = tl.load(norm_x + i, mask=i < count_x, other=0.0)
    norm_j = tl.load(norm_y + j, mask=j < count_y, other=0.0)
    values = similarity_of(dot, norm_i, norm_j)  # [BLOCK_N, BLOCK_N]
    mask = (i < count_x)[:, None] & (j < count_y)[None, :]
    tl.store(similarity + i[:, None] * count_y + j[None, :], values, mask=mask)
