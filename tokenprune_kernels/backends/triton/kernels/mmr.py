"""Maximal marginal relevance (Carbonell & Goldstein, SIGIR 1998): relevance against similarity to the picks."""

import triton
import triton.language as tl

_LOWEST = tl.constexpr(-3.4028234663852886e38)


@triton.jit
def mmr_score(maximum, relevance, relevance_weight, redundancy_weight):
    """The weighted relevance less the weighted similarity to the nearest pick."""
    # Bounded, because no redundancy at all, times the -inf of a non-finite row, is NaN; and behind the products, or
    # ptxas 12.8 fuses them with the difference on sm_100, in spite of their roundings.
    redundancy = tl.where(maximum > -1.0, redundancy_weight * maximum, -redundancy_weight)
    return tl.maximum(relevance_weight * relevance, _LOWEST) - redundancy
