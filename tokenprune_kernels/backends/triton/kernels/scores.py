"""Scores, and the integer keys that stand for them."""

import triton
import triton.language as tl

SCALE_BLOCK_N = tl.constexpr(1024)
"""Rows whose importance is scaled at a time."""

_LANES = tl.constexpr(32)  # of a warp
_LOWEST = tl.constexpr(-3.4028234663852886e38)
_WORD = tl.constexpr(4)  # rows that a lane loads at once

# Keys beside those of scores: a row that cannot be picked (any more), a non-finite one, one not bounded yet.
PICKED = tl.constexpr(-(2**31))
NON_FINITE = tl.constexpr(-0x7F800001)  # the key of -inf
UNBOUNDED = tl.constexpr(2**31 - 1)


@triton.jit
def key_of(score):
    """Scores as integers of the same order."""
    score = score + 0.0  # -0.0 ties with 0.0
    bits = score.to(tl.int32, bitcast=True)
    return bits ^ ((bits >> 31) & 0x7FFFFFFF)


@triton.jit
def score_of(key):
    """The score that a key stands for."""
    bits = key ^ ((key >> 31) & 0x7FFFFFFF)
    return bits.to(tl.float32, bitcast=True)


@triton.jit
def score_from(maximum, relevance, relevance_weight, redundancy_weight, METHOD: tl.constexpr):
    """The scores of rows, ``[BLOCK_N]``, from their largest similarity to a selected row."""
    if METHOD == "divprune":
        return 1.0 - maximum
    # Bounded, because no redundancy at all, times the -inf of a non-finite row, is NaN; and behind the products, or
    # ptxas 12.8 fuses them with the difference on sm_100, in spite of their roundings.
    redundancy = tl.where(maximum > -1.0, redundancy_weight * maximum, -redundancy_weight)
    return tl.maximum(relevance_weight * relevance, _LOWEST) - redundancy


@triton.jit
def key_from(maximum, relevance, relevance_weight, redundancy_weight, METHOD: tl.constexpr):
    """The keys of those scores."""
    score = score_from(maximum, relevance, relevance_weight, redundancy_weight, METHOD)
    if METHOD == "divprune":
        # Never negative, not even -0.0: half as many instructions in a step of the greedy loop.
        return score.to(tl.int32, bitcast=True)
    return key_of(score)


@triton.jit
def best_of(key, BLOCK_N: tl.constexpr, WARPS: tl.constexpr):
    """The largest of some keys ``[BLOCK_N]``, and the first row that has it.

    The keys are taken apart as they are spread over registers, warps and lanes, where that is known: each warp then
    finds its best with two instructions, and only what the warps have found has to cross a barrier.
    """
    warp_rows: tl.constexpr = min(BLOCK_N, max(_LANES, min(_LANES * _WORD, BLOCK_N // WARPS)))
    register_rows: tl.constexpr = max(1, BLOCK_N // (warp_rows * WARPS))
    shape: tl.constexpr = (register_rows, BLOCK_N // (register_rows * warp_rows), warp_rows)
    key = tl.reshape(key, shape)
    n = tl.reshape(tl.arange(0, BLOCK_N), shape)
    of_warp = tl.max(tl.max(key, axis=0), axis=1)
    first = tl.where(key == of_warp[None, :, None], n, BLOCK_N)
    first = tl.min(tl.min(first, axis=0), axis=1)
    ballot = tl.max((of_warp.to(tl.int64) << 32) | (BLOCK_N - first), axis=0)
    return (ballot >> 32).to(tl.int32), BLOCK_N - (ballot & (2**32 - 1)).to(tl.int32)


@triton.jit
def scale_to_relevance(importance, reciprocal_norm, length):
    """Scales the importance of finite rows to [0, 1], in place; to 0 everywhere if its range overflows."""
    largest = tl.full([SCALE_BLOCK_N], float("-inf"), tl.float32)
    smallest = tl.full([SCALE_BLOCK_N], float("inf"), tl.float32)
    for begin in range(0, length, SCALE_BLOCK_N):
        n = begin + tl.arange(0, SCALE_BLOCK_N)  # [SCALE_BLOCK_N]
        weights = tl.load(importance + n, mask=n < length, other=0.0)
        finite = tl.load(reciprocal_norm + n, mask=n < length, other=0.0) != 0.0
        largest = tl.maximum(largest, tl.where(finite, weights, float("-inf")))
        smallest = tl.minimum(smallest, tl.where(finite, weights, float("inf")))
    lowest = tl.min(smallest, axis=0)
    span = tl.broadcast_to(tl.max(largest, axis=0) - lowest, [SCALE_BLOCK_N])
    for begin in range(0, length, SCALE_BLOCK_N):
        n = begin + tl.arange(0, SCALE_BLOCK_N)  # [SCALE_BLOCK_N]
        weights = tl.load(importance + n, mask=n < length, other=0.0)
        finite = tl.load(reciprocal_norm + n, mask=n < length, other=0.0) != 0.0
        scaled = tl.div_rn(weights - lowest, span + 1e-6)
        tl.store(importance + n, tl.where(finite & (span < float("inf")), scaled, 0.0), mask=n < length)
    # Other threads read what these have written.
    tl.debug_barrier()
