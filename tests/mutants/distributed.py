"""Mutants of selections over several processes."""

from tests.mutants.mutant import Mutant

DISTRIBUTED = "tokenprune_kernels/distributed"
TRITON = "tokenprune_kernels/backends/triton"

MUTANTS = (
    Mutant(
        "best-outside-of-the-first-rank-alone",
        "distributed",
        f"{DISTRIBUTED}/lazy_greedy.py",
        "outside = min(rows.outside)",
        "outside = rows.outside[0]",
        "A row of another rank that is no candidate is not compared with the candidates.",
    ),
    Mutant(
        "rows-outside-of-the-frontier-forgotten",
        "distributed",
        f"{DISTRIBUTED}/lazy_greedy.py",
        "[min(outside, best_left)]",
        "[best_left]",
        "A candidate is picked before a row that was not on the frontier.",
    ),
    Mutant(
        "candidates-in-the-order-of-their-scores",
        "distributed",
        f"{DISTRIBUTED}/messages.py",
        "order = index.argsort()",
        "order = torch.arange(len(index))",
        "Of equal scores, the first in a message is picked.",
    ),
    Mutant(
        "outlier-before-the-last-proposals",
        "distributed",
        f"{DISTRIBUTED}/first_pick.py",
        "if not any(key < best for key in rows.outside):",
        "if found:",
        "The best proposal is taken, although a row that was not proposed may come before it.",
    ),
    Mutant(
        "outlier-near-itself",
        "distributed",
        f"{DISTRIBUTED}/shard.py",
        "similarities[position[own] - here.start, own] = -torch.inf",
        "pass",
        "A proposal is its own nearest row.",
    ),
    Mutant(
        "importance-scaled-on-each-rank",
        "distributed",
        f"{DISTRIBUTED}/selection.py",
        "exchange.maximum(extremes)",
        "extremes",
        "IDPruner scales the importance of each rank by itself.",
    ),
    Mutant(
        "late-picks-forgotten",
        "distributed",
        f"{DISTRIBUTED}/lazy_greedy.py",
        "            self._seen[group] = end\n",
        "            self._seen[group] = self._selected\n",
        "A row that has seen some of the missing picks counts as up to date.",
    ),
    Mutant(
        "methods-not-compared",
        "distributed",
        f"{DISTRIBUTED}/agreement.py",
        '"method": method,',
        '"method": "",',
        "Ranks with different methods select together.",
    ),
    Mutant(
        "subnormal-weights-flushed",
        "distributed",
        f"{DISTRIBUTED}/float_environment.py",
        "torch.set_flush_denormal(False)",
        "pass",
        "Where the caller flushes subnormal numbers, weights of these are zero.",
    ),
    Mutant(
        "backends-not-compared",
        "triton distributed",
        f"{DISTRIBUTED}/agreement.py",
        '"backend": backend,',
        '"backend": "",',
        "Ranks on different backends select together.",
    ),
    Mutant(
        "outliers-near-themselves-from-the-second-block-on",
        "triton distributed",
        f"{TRITON}/rows.py",
        "to_all.diagonal(first)",
        "to_all.diagonal(0)",
        "A row of a later block is its own nearest row.",
    ),
    Mutant(
        "non-finite-rows-are-outliers",
        "triton distributed",
        f"{TRITON}/rows.py",
        "torch.where(finite, 1.0 - nearest, -torch.inf)",
        "1.0 - nearest",
        "A row that is not finite is proposed as the first pick.",
    ),
    Mutant(
        "norms-of-the-wrong-tensor",
        "triton distributed",
        f"{TRITON}/kernels/cross_similarity.py",
        "tl.load(norm_y + j,",
        "tl.load(norm_x + j,",
        "The rows of y are scaled by the norms of x.",
    ),
)
