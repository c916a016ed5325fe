"""Greedy MAP inference for a determinantal point process (Chen et al., NeurIPS 2018), one pick at a time.

The kernel is L_ij = relevance_i * similarity_ij * relevance_j. A row keeps its gain and its row of the picks' Cholesky
factor; memory is linear in N and in k.
"""

import triton
import triton.language as tl

from .grid import grid_barrier
from .norms import sums_by_pairs
from .scores import LARGEST_ROW, NON_FINITE, PICKED, key_of, score_of
from .segments import PLAN_COLUMNS, all_units, segment_at, segment_of
from .similarity import dot_products, similarity_of

_NO_GAIN = tl.constexpr(2e-5)  # gains below this share of the largest L_ii count as zero
_PICK_N = tl.constexpr(16)  # rows of the narrowest product; only the first is a pick
_FACTOR_K = tl.constexpr(32)  # coefficients of the factor at a time
_LARGEST_RECIPROCAL_NORM = tl.constexpr(1e12)


@triton.jit
def _ballot_of(key, n):
    """Keys and rows as one number, larger for what is picked before."""
    return (key.to(tl.int64) << 32) | (n ^ LARGEST_ROW).to(tl.int64)


@triton.jit
def _vote(ballots, key, n):
    tl.atomic_max(ballots, tl.max(_ballot_of(key, n), axis=0), sem="relaxed")


@triton.jit
def _elected(ballots):
    """The key and the row of the largest ballot."""
    ballot = tl.load(ballots)
    return (ballot >> 32).to(tl.int32), (ballot & LARGEST_ROW) ^ LARGEST_ROW


@triton.jit
def _scale_of(relevance_key):
    """The power of two that brings the root of the largest L_ii near 1, and its reciprocal: no square overflows."""
    exponent = (score_of(relevance_key).to(tl.int32, bitcast=True) >> 23) & 255
    exponent = tl.minimum(tl.maximum(exponent, 1), 253)
    return ((exponent * -1 + 254) << 23).to(tl.float32, bitcast=True), (exponent << 23).to(tl.float32, bitcast=True)


@triton.jit
def _relevance_of(importance, n, length, scale):
    return tl.maximum(tl.load(importance + n, mask=n < length, other=0.0), 0.0) * scale


@triton.jit
def _self_similarity(rows, norm, inside, width, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr):
    """1 without rounding, unless a norm is below its floor."""
    floored = inside & (norm >= _LARGEST_RECIPROCAL_NORM)
    similarity = tl.full([BLOCK_N], 1.0, tl.float32)
    if tl.max(floored.to(tl.int32), axis=0) > 0:
        squares = tl.zeros([BLOCK_N, BLOCK_D], tl.float32)
        for begin in range(0, width, BLOCK_D):
            d = begin + tl.arange(0, BLOCK_D)  # [BLOCK_D]
            values = tl.load(rows[:, None] + d[None, :], mask=floored[:, None] & (d < width)[None, :], other=0.0)
            values = values.to(tl.float32)
            squares += values * values
        similarity = tl.where(floored, sums_by_pairs(squares, BLOCK_N, BLOCK_D) * (norm * norm), similarity)
    return similarity


@triton.jit
def _factor_products(factor, stride_f, n, inside, pick, picks, BLOCK_N: tl.constexpr):
    """The products of rows of the factor with that of a pick, over the picks before it."""
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
        "depth",
        "programs",
        "most_kept",
        "stride_xb",
        "stride_xn",
        "stride_f",
    ]
)
def dpp_kernel(
    x,
    plan,
    reciprocal_norm,
    importance,
    gains,
    factor,
    ballots,
    relevance_keys,
    arrivals,
    indices,
    scores,
    first_segment,
    segments,
    count,
    k,
    depth,
    programs,
    most_kept,
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
    """All picks of all segments side by side, one a turn.

    In a turn, blocks of rows take in the last pick and vote for the next one. ``factor`` is ``[picks, rows]``;
    ``ballots`` are int64 ``[segments, most_kept]`` and ``relevance_keys`` int32 ``[segments]``, each the smallest
    number of its type before the launch; ``arrivals`` is 0.
    """
    program = tl.program_id(0).to(tl.int64)
    stride_n = stride_xn.to(tl.int64) * ALIGNMENT
    width = depth * ALIGNMENT
    blocks = all_units(plan, segments, count, BLOCK_N, False, VARLEN)
    block_n = tl.arange(0, BLOCK_N)  # [BLOCK_N]
    pick_n = tl.arange(0, _PICK_N)  # [PICK_N]
    turns = tl.full([], 0, tl.int64) + k
    if VARLEN:
        for each in range(0, segments):
            turns = tl.maximum(turns, tl.load(plan + tl.cast(each, tl.int64) * PLAN_COLUMNS + 2))

    for unit in range(program, blocks, programs):
        number, block = segment_of(plan, unit, segments, count, BLOCK_N, False, VARLEN)
        segment, first_row, length, _, _, workspace_row = segment_at(plan, number, first_segment, count, k, VARLEN)
        n = block * BLOCK_N + block_n
        inside = n < length
        rows = x + segment * stride_xb * ALIGNMENT + (first_row + n) * stride_n
        norm = tl.load(reciprocal_norm + workspace_row + n, mask=inside, other=0.0)
        itself = _self_similarity(rows, norm, inside, width, BLOCK_N, BLOCK_D)
        # A row without a kernel entry must not scale the others, nor overflow when it is scaled as they are.
        relevance = tl.where(itself > 0.0, _relevance_of(importance + workspace_row, n, length, 1.0), 0.0)
        tl.store(importance + workspace_row + n, relevance, mask=inside)
        tl.atomic_max(relevance_keys + number, tl.max(key_of(relevance * tl.sqrt_rn(itself)), axis=0), sem="relaxed")
    arrived = tl.full([], 0, tl.int32) + programs
    grid_barrier(arrivals, arrived)

    for turn in range(0, turns + 1):
        for unit in range(program, blocks, programs):
            number, block = segment_of(plan, unit, segments, count, BLOCK_N, False, VARLEN)
            segment, first_row, length, kept, slot, workspace_row = segment_at(
                plan, number, first_segment, count, k, VARLEN
            )
            if turn <= kept:
                n = block * BLOCK_N + block_n
                inside = n < length
                rows = x + segment * stride_xb * ALIGNMENT + first_row * stride_n
                norms = reciprocal_norm + workspace_row
                norm = tl.load(norms + n, mask=inside, other=0.0)
                scale, unscale = _scale_of(tl.load(relevance_keys + number))
                relevance = _relevance_of(importance + workspace_row, n, length, scale)
                of_segment = ballots + number * most_kept
                if turn == 0:
                    itself = _self_similarity(rows + n * stride_n, norm, inside, width, BLOCK_N, BLOCK_D)
                    root = relevance * tl.sqrt_rn(itself)
                    gain = root * root
                    key = tl.where(inside, tl.where(norm != 0.0, key_of(gain), NON_FINITE), PICKED)
                    tl.store(gains + workspace_row + n, gain, mask=inside)
                    _vote(of_segment, key, n)
                else:
                    best, pick = _elected(of_segment + turn - 1)
                    won = score_of(best)
                    if block == 0:
                        tl.store(indices + slot + turn - 1, first_row + pick)
                        if WITH_SCORES:
                            tl.store(scores + slot + turn - 1, won * unscale * unscale)
                    if turn < kept:
                        gain = tl.load(gains + workspace_row + n, mask=inside, other=0.0)
                        # Where no gain is left, nothing changes any more.
                        if won > 0.0:
                            picks = pick + pick_n.to(tl.int64) * 0
                            norm_p = tl.load(norms + picks)
                            dot = dot_products(
                                rows + n * stride_n,
                                inside,
                                rows + picks * stride_n,
                                pick_n == 0,
                                0,
                                width,
                                EVEN_D,
                                BLOCK_N,
                                _PICK_N,
                                BLOCK_D,
                            )
                            values = tl.where((pick_n == 0)[None, :], similarity_of(dot, norm, norm_p), 0.0)
                            similarity = tl.where(norm != 0.0, tl.sum(values, axis=1), 0.0)
                            relevance_p = tl.maximum(tl.load(importance + workspace_row + pick), 0.0) * scale
                            of_segment_factor = factor + workspace_row
                            rest = similarity * (relevance * relevance_p) - _factor_products(
                                of_segment_factor, stride_f, n, inside, pick, turn - 1, BLOCK_N
                            )
                            coefficient = tl.div_rn(rest, tl.zeros([BLOCK_N], tl.float32) + tl.sqrt_rn(won))
                            column = of_segment_factor + tl.cast(turn - 1, tl.int64) * stride_f
                            tl.store(column + n, coefficient, mask=inside)
                            gain -= coefficient * coefficient
                        first_key, _ = _elected(of_segment)
                        gain = tl.where(gain < score_of(first_key) * _NO_GAIN, tl.minimum(gain, 0.0), gain)
                        tl.store(gains + workspace_row + n, tl.where(n == pick, float("-inf"), gain), mask=inside)
                        key = tl.where(norm != 0.0, key_of(tl.maximum(gain, 0.0)), NON_FINITE)
                        picked = (n == pick) | (gain == float("-inf"))
                        _vote(of_segment + turn, tl.where(inside & ~picked, key, PICKED), n)
        arrived += programs
        grid_barrier(arrivals, arrived)
