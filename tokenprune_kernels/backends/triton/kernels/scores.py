"""Keys: integers in the order of the scores, the order of picks, and the best key of a block."""

import triton
import triton.language as tl

from .divprune import divprune_key
from .mmr import mmr_score

_LANES = tl.constexpr(32)  # of a warp
_WORD = tl.constexpr(4)  # keys that a lane loads at once

# Keys that are no scores.
PICKED = tl.constexpr(-(2**31))  # a row that cannot be picked, or not again
NON_FINITE = tl.constexpr(-0x7F800001)  # a row that is not finite: the key of -inf
UNBOUNDED = tl.constexpr(2**31 - 1)  # a row that has no upper bound yet
NO_KEY = tl.constexpr(2**31 - 1)  # where a minimum of keys starts
LARGEST_ROW = tl.constexpr(2**31 - 1)  # where a minimum of rows starts


@triton.jit
def key_of(score):
    """The key of a score: an int32 in the order of the scores."""
    score = score + 0.0  # -0.0 ties with 0.0
    bits = score.to(tl.int32, bitcast=True)
    return bits ^ ((bits >> 31) & 0x7FFFFFFF)


@triton.jit
def score_of(key):
    """The score that a key stands for."""
    bits = key ^ ((key >> 31) & 0x7FFFFFFF)
    return bits.to(tl.float32, bitcast=True)


@triton.jit
def comes_before(key, row, other_key, other_row):
    """The order of picks: the larger key, then the lower row."""
    return (key > other_key) | ((key == other_key) & (row < other_row))


@triton.jit
def key_from(maximum, relevance, relevance_weight, redundancy_weight, METHOD: tl.constexpr):
    """The keys of the scores of rows, ``[BLOCK_N]``, from their largest similarity to a pick."""
    if METHOD == "divprune":
        return divprune_key(maximum)
    return key_of(mmr_score(maximum, relevance, relevance_weight, redundancy_weight))


@triton.jit
def best_of(key, BLOCK_N: tl.constexpr, WARPS: tl.constexpr):
    """Returns the largest of ``[BLOCK_N]`` keys, and the first row that has it.

    The reshape follows the layout of the keys over registers, warps and lanes. So each warp finds its best key with two
    instructions, and only one key and row of each warp cross a barrier.
    """
    warp_rows: tl.constexpr = min(BLOCK_N, max(_LANES, min(_LANES * _WORD, BLOCK_N // WARPS)))
    register_rows: tl.constexpr = max(1, BLOCK_N // (warp_rows * WARPS))
    shape: tl.constexpr = (register_rows, BLOCK_N // (register_rows * warp_rows), warp_rows)
    key = tl.reshape(key, shape)
    n = tl.reshape(tl.arange(0, BLOCK_N), shape)
    of_warp = tl.max(tl.max(key, axis=0), axis=1)
    first = tl.where(key == of_warp[None, :, None], n, BLOCK_N)
    first = tl.min(tl.min(first, axis=0), axis=1)
    packed = tl.max((of_warp.to(tl.int64) << 32) | (BLOCK_N - first), axis=0)
    return (packed >> 32).to(tl.int32), BLOCK_N - (packed & (2**32 - 1)).to(tl.int32)
