"""Greedy MAP inference for a determinantal point process (Chen et al., NeurIPS 2018), one pick a step.

The kernel matrix is L_ij = relevance_i * similarity_ij * relevance_j. A row keeps its gain and its row of the Cholesky
factor of the picks. Memory grows with N times k. The DPP has no upper bounds here: a step updates all rows.
"""

import triton
import triton.language as tl

from .grid import grid_barrier
from .norms import sums_by_pairs
from .scores import LARGEST_ROW, NON_FINITE, PICKED, key_of, score_of
from .segments import PLAN_COLUMNS, K, all_units, segment_at, segment_of
from .similarity import dot_products, similarity_of

_NO_GAIN = tl.constexpr(2e-5)  # a gain below this share of the largest L_ii counts as zero
_PICK_N = tl.constexpr(16)  # rows of the smallest tensor core product, of which only the first is the pick
_FACTOR_K = tl.constexpr(32)  # coefficients of the factor that are loaded at a time
_LARGEST_RECIPROCAL_NORM = tl.constexpr(1e12)


@triton.jit
def _pack(key, n):
    """Packs keys and rows into int64, in the order of picks: the larger key, then the lower row."""
    return (key.to(tl.int64) << 32) | (n ^ LARGEST_ROW).to(tl.int64)


@triton.jit
def _atomic_argmax(packed_pick, key, n):
    """Raises a packed pick to the best of rows n."""
    tl.atomic_max(packed_pick, tl.max(_pack(key, n), axis=0), sem="relaxed")


@triton.jit
def _unpack(packed_pick):
    """Loads a packed pick. Returns its key and its row."""
    packed = tl.load(packed_pick)
    return (packed >> 32).to(tl.int32), (packed & LARGEST_ROW) ^ LARGEST_ROW


@triton.jit
def _scale_of(max_root_key):
    """Returns the power of two that brings the root of the largest L_ii near 1, so that no square overflows.

    Its reciprocal is the second result.
    """
    exponent = (score_of(max_root_key).to(tl.int32, bitcast=True) >> 23) & 255
    exponent = tl.minimum(tl.maximum(exponent, 1), 253)
    return ((exponent * -1 + 254) << 23).to(tl.float32, bitcast=True), (exponent << 23).to(tl.float32, bitcast=True)


@triton.jit
def _relevance_of(relevance, n, length, scale):
    """The scaled relevance of rows n. A negative one counts as 0."""
    return tl.maximum(tl.load(relevance + n, mask=n < length, other=0.0), 0.0) * scale


@triton.jit
def _self_similarity(rows, norm, inside, D, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr):
    """The similarity of each row with itself: exactly 1, unless the norm is below its floor."""
    floored = inside & (norm >= _LARGEST_RECIPROCAL_NORM)
    similarity = tl.full([BLOCK_N], 1.0, tl.float32)
    if tl.max(floored.to(tl.int32), axis=0) > 0:
        squares = tl.zeros([BLOCK_N, BLOCK_D], tl.float32)
        for begin in range(0, D, BLOCK_D):
            d = begin + tl.arange(0, BLOCK_D)  # [BLOCK_D]
            values = tl.load(rows[:, None] + d[None, :], mask=floored[:, None] & (d < D)[None, :], other=0.0)
            values = values.to(tl.float32)
            squares += values * values
        similarity = tl.where(floored, sums_by_pairs(squares, BLOCK_N, BLOCK_D) * (norm * norm), similarity)
    return similarity


@triton.jit
def _factor_products(factor, stride_f, n, inside, pick, picks, BLOCK_N: tl.constexpr):
    """The dot products of rows of the factor with the row of a pick, over the picks before it."""
    total = tl.zeros([BLOCK_N], tl.float32)
    for begin in range(0, picks, _FACTOR_K):
        p = begin + tl.arange(0, _FACTOR_K)  # [FACTOR_K]
        column = factor + p.to(tl.int64) * stride_f
        of_pick = tl.load(column + pick, mask=p < picks, other=0.0)
        mask = (p < picks)[:, None] & inside[None, :]
        of_rows = tl.load(column[:, None] + n[None, :], mask=mask, other=0.0)
        total += tl.sum(of_rows * of_pick[:, None], axis=0)
    return total


@triton.jit(
    do_not_specialize=[
        "first_segment",
        "segments",
        "count",
        "k",
        "d_units",
        "programs",
        "max_k",
        "stride_xb",
        "stride_xn",
        "stride_f",
    ]
)
def dpp_kernel(
    x,
    plan,
    reciprocal_norm,
    relevance,
    gains,
    factor,
    packed_picks,
    max_root_keys,
    arrival_counter,
    indices,
    scores,
    first_segment,
    segments,
    count,
    k,
    d_units,
    programs,
    max_k,
    stride_xb,
    stride_xn,
    stride_f,
    WITH_SCORES: tl.constexpr,
    VARLEN: tl.constexpr,
    ALIGNMENT: tl.constexpr,
    EVEN_D: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """Makes all picks of all segments side by side, in steps with a barrier after each.

    In a step, programs update blocks of rows with the last pick and find the next one by an atomic argmax.

    Args of its own: ``factor`` is float32 ``[max_k, stride_f]``. ``packed_picks`` is int64 ``[segments, max_k]`` and
    ``max_root_keys`` is int32 ``[segments]``. Both hold the smallest number of their type before the launch.
    ``max_root_keys`` becomes the key of the root of a segment's largest L_ii. ``arrival_counter`` is 0 before.
    """
    program = tl.program_id(0).to(tl.int64)
    stride_n = stride_xn.to(tl.int64) * ALIGNMENT
    D = d_units * ALIGNMENT
    blocks = all_units(plan, segments, count, BLOCK_N, False, VARLEN)
    block_n = tl.arange(0, BLOCK_N)  # [BLOCK_N]
    pick_n = tl.arange(0, _PICK_N)  # [PICK_N]
    steps = tl.full([], 0, tl.int64) + k
    if VARLEN:
        for each in range(0, segments):
            steps = tl.maximum(steps, tl.load(plan + tl.cast(each, tl.int64) * PLAN_COLUMNS + K))

    for unit in range(program, blocks, programs):
        number, block = segment_of(plan, unit, segments, count, BLOCK_N, False, VARLEN)
        segment, first_row, length, _, _, workspace_row = segment_at(plan, number, first_segment, count, k, VARLEN)
        n = block * BLOCK_N + block_n
        inside = n < length
        rows = x + segment * stride_xb * ALIGNMENT + (first_row + n) * stride_n
        norm = tl.load(reciprocal_norm + workspace_row + n, mask=inside, other=0.0)
        itself = _self_similarity(rows, norm, inside, D, BLOCK_N, BLOCK_D)
        # A row with L_ii = 0 gets relevance 0. It must neither set the scale nor overflow under it.
        row_relevance = tl.where(itself > 0.0, _relevance_of(relevance + workspace_row, n, length, 1.0), 0.0)
        tl.store(relevance + workspace_row + n, row_relevance, mask=inside)
        tl.atomic_max(max_root_keys + number, tl.max(key_of(row_relevance * tl.sqrt_rn(itself)), axis=0), sem="relaxed")
    arrived = tl.full([], 0, tl.int32) + programs
    grid_barrier(arrival_counter, arrived)

    for step in range(0, steps + 1):
        for unit in range(program, blocks, programs):
            number, block = segment_of(plan, unit, segments, count, BLOCK_N, False, VARLEN)
            segment, first_row, length, segment_k, out_row, workspace_row = segment_at(
                plan, number, first_segment, count, k, VARLEN
            )
            if step <= segment_k:
                n = block * BLOCK_N + block_n
                inside = n < length
                rows = x + segment * stride_xb * ALIGNMENT + first_row * stride_n
                norms = reciprocal_norm + workspace_row
                norm = tl.load(norms + n, mask=inside, other=0.0)
                scale, unscale = _scale_of(tl.load(max_root_keys + number))
                row_relevance = _relevance_of(relevance + workspace_row, n, length, scale)
                segment_picks = packed_picks + number * max_k
                if step == 0:
                    itself = _self_similarity(rows + n * stride_n, norm, inside, D, BLOCK_N, BLOCK_D)
                    root = row_relevance * tl.sqrt_rn(itself)
                    gain = root * root
                    key = tl.where(inside, tl.where(norm != 0.0, key_of(gain), NON_FINITE), PICKED)
                    tl.store(gains + workspace_row + n, gain, mask=inside)
                    _atomic_argmax(segment_picks, key, n)
                else:
                    best, pick = _unpack(segment_picks + step - 1)
                    won = score_of(best)
                    if block == 0:
                        tl.store(indices + out_row + step - 1, first_row + pick)
                        if WITH_SCORES:
                            tl.store(scores + out_row + step - 1, won * unscale * unscale)
                    if step < segment_k:
                        gain = tl.load(gains + workspace_row + n, mask=inside, other=0.0)
                        # After a pick without gain, no gain changes.
                        if won > 0.0:
                            picks = pick + pick_n.to(tl.int64) * 0
                            norm_p = tl.load(norms + picks)
                            dot = dot_products(
                                rows + n * stride_n,
                                inside,
                                rows + picks * stride_n,
                                pick_n == 0,
                                0,
                                D,
                                EVEN_D,
                                BLOCK_N,
                                _PICK_N,
                                BLOCK_D,
                            )
                            values = tl.where((pick_n == 0)[None, :], similarity_of(dot, norm, norm_p), 0.0)
                            similarity = tl.where(norm != 0.0, tl.sum(values, axis=1), 0.0)
                            relevance_p = tl.maximum(tl.load(relevance + workspace_row + pick), 0.0) * scale
                            segment_factor = factor + workspace_row
                            rest = similarity * (row_relevance * relevance_p) - _factor_products(
                                segment_factor, stride_f, n, inside, pick, step - 1, BLOCK_N
                            )
                            coefficient = tl.div_rn(rest, tl.zeros([BLOCK_N], tl.float32) + tl.sqrt_rn(won))
                            column = segment_factor + tl.cast(step - 1, tl.int64) * stride_f
                            tl.store(column + n, coefficient, mask=inside)
                            gain -= coefficient * coefficient
                        first_key, _ = _unpack(segment_picks)
                        gain = tl.where(gain < score_of(first_key) * _NO_GAIN, tl.minimum(gain, 0.0), gain)
                        tl.store(gains + workspace_row + n, tl.where(n == pick, float("-inf"), gain), mask=inside)
                        key = tl.where(norm != 0.0, key_of(tl.maximum(gain, 0.0)), NON_FINITE)
                        picked = (n == pick) | (gain == float("-inf"))
                        _atomic_argmax(segment_picks + step, tl.where(inside & ~picked, key, PICKED), n)
        arrived += programs
        grid_barrier(arrival_counter, arrived)
