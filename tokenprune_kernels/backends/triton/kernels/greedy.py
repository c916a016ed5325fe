"""The plain greedy loop over materialised similarities."""

import triton
import triton.language as tl

from .idpruner import scale_to_relevance
from .scores import NON_FINITE, PICKED, UNBOUNDED, best_of, key_from, key_of, score_of
from .segments import ROW_ALIGNMENT, segment_at


@triton.jit(
    do_not_specialize=[
        "first_segment",
        "count",
        "k",
        "capacity",
        "stride_sn",
        "relevance_weight",
        "redundancy_weight",
    ]
)
def greedy_kernel(
    similarity,
    row_maximum,
    reciprocal_norm,
    relevance,
    plan,
    indices,
    scores,
    first_segment,
    count,
    k,
    capacity,
    stride_sn,
    relevance_weight,
    redundancy_weight,
    METHOD: tl.constexpr,
    WITH_SCORES: tl.constexpr,
    VARLEN: tl.constexpr,
    TILE_N: tl.constexpr,
    BLOCK_N: tl.constexpr,
    WARPS: tl.constexpr,
):
    """One program selects from one segment. The keys of its rows stay in registers from the first to the last pick.

    A row's key is that of its lowest score so far. That is the score of its running maximum similarity: scores only
    fall as the maximum rises, and rounding keeps their order.
    """
    _, first_row, length, segment_k, out_row, workspace_row = segment_at(
        plan, tl.program_id(0).to(tl.int64), first_segment, count, k, VARLEN
    )
    n = tl.arange(0, BLOCK_N)  # [BLOCK_N]
    inside = n < length
    # Loads are 16 bytes wide, so they cover the padding of the workspaces. Keys of the padding are PICKED.
    padded = n < tl.cdiv(length, ROW_ALIGNMENT) * ROW_ALIGNMENT
    row_relevance = tl.zeros([BLOCK_N], tl.float32)
    if METHOD == "divprune":
        nearest = tl.full([BLOCK_N], float("-inf"), tl.float32)
        for tile in range(0, tl.cdiv(length, TILE_N)):
            of_tile = row_maximum + tile * capacity * ROW_ALIGNMENT + workspace_row + n
            nearest = tl.maximum(nearest, tl.load(of_tile, mask=padded))
        first_key = key_from(nearest, row_relevance, relevance_weight, redundancy_weight, METHOD)
    else:
        if METHOD == "idpruner":
            scale_to_relevance(relevance + workspace_row, reciprocal_norm + workspace_row, length)
        row_relevance = tl.load(relevance + workspace_row + n, mask=padded)
        first_key = key_of(row_relevance)
    finite = tl.load(reciprocal_norm + workspace_row + n, mask=padded) != 0.0
    key = tl.where(inside, tl.where(finite, first_key, NON_FINITE), PICKED)
    best, pick = best_of(key, BLOCK_N, WARPS)
    # The first pick has a score of another kind, which bounds no later score.
    key = tl.where(key > NON_FINITE, UNBOUNDED, key)
    for step in range(0, segment_k):
        tl.store(indices + out_row + step, first_row + pick)
        if WITH_SCORES:
            tl.store(scores + out_row + step, score_of(best))
        key = tl.where(n == pick, PICKED, key)
        row = similarity + (workspace_row + pick) * stride_sn * ROW_ALIGNMENT + n
        similarities = tl.load(row, mask=padded)  # [BLOCK_N]
        key = tl.minimum(key, key_from(similarities, row_relevance, relevance_weight, redundancy_weight, METHOD))
        best, pick = best_of(key, BLOCK_N, WARPS)
