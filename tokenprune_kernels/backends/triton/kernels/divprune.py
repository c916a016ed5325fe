"""DivPrune (Alvar et al., CVPR 2025): max-min diversity."""

import triton
import triton.language as tl


@triton.jit
def divprune_key(maximum):
    """The key of the cosine distance to the nearest pick."""
    score = 1.0 - maximum
    # Never negative, not even -0.0: half as many instructions in a step of the greedy loop.
    return score.to(tl.int32, bitcast=True)
