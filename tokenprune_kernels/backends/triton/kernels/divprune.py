"""DivPrune (Alvar et al., CVPR 2025): max-min diversity. A score is the cosine distance to the nearest pick.

The first pick is the row whose nearest other row is farthest: the top outlier. The materialised form reads it off the
row maxima that `similarity_kernel` writes. The lazy greedy form searches for it in `outlier_kernel` (first_pick.py).
"""

import triton
import triton.language as tl


@triton.jit
def divprune_key(maximum):
    """The key of the cosine distance to the nearest pick."""
    score = 1.0 - maximum
    # The distance is never negative, not even -0.0. So its bits are its key, which halves the instructions of a step.
    return score.to(tl.int32, bitcast=True)
