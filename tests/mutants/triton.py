"""Mutants of the Triton backend."""

from tests.mutants.mutant import Mutant

KERNELS = "tokenprune_kernels/backends/triton/kernels"

MUTANTS = (
    Mutant(
        "triton-negative-zero",
        "triton",
        f"{KERNELS}/scores.py",
        "    score = score + 0.0  # -0.0 ties with 0.0\n",
        "",
        "A relevance of -0.0 comes after one of 0.0.",
    ),
    Mutant(
        "triton-ties-to-the-last-row",
        "triton",
        f"{KERNELS}/scores.py",
        "(key == other_key) & (row < other_row)",
        "(key == other_key) & (row > other_row)",
        "Of equal outliers, the last row is picked.",
    ),
    Mutant(
        "triton-best-of-warp-rows",
        "triton",
        f"{KERNELS}/scores.py",
        "(of_warp.to(tl.int64) << 32) | (BLOCK_N - first)",
        "(of_warp.to(tl.int64) << 32) | first",
        "Of equal keys in different warps, the last row wins, under another number.",
    ),
    Mutant(
        "triton-result-rows-not-carried",
        "triton segments",
        f"{KERNELS}/segments.py",
        "highest_out_row = tl.maximum(highest_out_row, tl.max(out_row, axis=0))",
        "highest_out_row = tl.maximum(highest_out_row, tl.min(out_row, axis=0))",
        "From the second block of segments on, result rows may overlap those of earlier segments.",
    ),
    Mutant(
        "triton-first-unit-off-by-one",
        "triton segments",
        f"{KERNELS}/segments.py",
        "FIRST_UNIT) <= unit",
        "FIRST_UNIT) < unit",
        "The first unit of a segment is given to the segment before.",
    ),
    Mutant(
        "triton-capacity-ignored",
        "triton segments",
        f"{KERNELS}/segments.py",
        "        valid = valid & (used_up_to <= capacity)\n",
        "",
        "Segments that overlap write beyond the workspaces.",
    ),
    Mutant(
        "triton-gram-not-transposed",
        "triton",
        f"{KERNELS}/candidates.py",
        "tl.store(gram + j[:, None] * stride_g + i[None, :], tl.trans(values))",
        "tl.store(gram + j[:, None] * stride_g + i[None, :], values)",
        "The lower triangle of the Gram matrix holds the similarities of other pairs.",
    ),
    Mutant(
        "triton-outside-row-forgotten",
        "triton",
        f"{KERNELS}/lazy_greedy.py",
        "picking = tl.load(candidate_rows + place) < best_outside_row",
        "picking = True",
        "A candidate that ties with a row outside is picked before it.",
    ),
    Mutant(
        "triton-picks-seen-skips-a-round",
        "triton",
        f"{KERNELS}/lazy_greedy.py",
        "tl.store(segment_state + PICKS_SEEN, before)",
        "tl.store(segment_state + PICKS_SEEN, picks)",
        "Rows outside never see the picks of a round.",
    ),
    Mutant(
        "triton-search-ends-a-round-early",
        "triton grid",
        f"{KERNELS}/first_pick.py",
        "row = tl.where(found == 0, best_row, tl.load(candidate_rows))",
        "row = tl.where(found == 0, tl.load(candidate_rows), best_row)",
        "The first pick is a candidate of the round before.",
    ),
    Mutant(
        "triton-splits-in-reverse",
        "triton grid",
        f"{KERNELS}/similarity.py",
        "dot += tl.load(first + split * (BLOCK_N * BLOCK_N))",
        "dot += tl.load(first + (splits - 1 - split) * (BLOCK_N * BLOCK_N))",
        "Under split-K, chunks are added in another order.",
    ),
    Mutant(
        "triton-barrier-of-one",
        "triton grid",
        f"{KERNELS}/grid.py",
        "while arrived - target < 0:",
        "while arrived - target < -1:",
        "The last program of a grid is not waited for.",
    ),
)
