"""IDPruner (Tan et al., arXiv 2602.13315): MMR with importance, scaled to [0, 1], as relevance.

Its first pick and its score are those of MMR (mmr.py).
"""

import triton
import triton.language as tl

SCALE_BLOCK_N = tl.constexpr(1024)
"""How many rows are scaled at a time."""


@triton.jit
def scale_to_relevance(importance, reciprocal_norm, length):
    """Replaces the importance of a segment's rows by relevance: scaled to [0, 1] over the finite rows.

    Relevance is 0 where a row is not finite, and everywhere if the range of the importance overflows.
    """
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
    # Other threads of the program read these values next.
    tl.debug_barrier()
