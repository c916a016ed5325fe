"""Maximal marginal relevance (Carbonell & Goldstein, SIGIR 1998): relevance against similarity to the nearest pick.

The first pick is the most relevant row (`greedy_kernel`, or `first_pick_kernel` before the lazy greedy rounds).
"""

import triton
import triton.language as tl

_LOWEST = tl.constexpr(-3.4028234663852886e38)


@triton.jit
def mmr_score(maximum, relevance, relevance_weight, redundancy_weight):
    """``lam * relevance - (1 - lam) * maximum`` of rows whose largest similarity to a pick is ``maximum``."""
    # Clamp: 0 * -inf (non-finite row) is NaN. Clamp after the multiplication, or ptxas 12.8 contracts it into an FMA
    # on sm_100 although fusion is off.
    redundancy = tl.where(maximum > -1.0, redundancy_weight * maximum, -redundancy_weight)
    return tl.maximum(relevance_weight * relevance, _LOWEST) - redundancy
