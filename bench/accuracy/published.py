"""What papers report of pruned 7B models, for whoever runs the same as docs/accuracy.md says. None was run here."""

from __future__ import annotations

from dataclasses import dataclass

from bench.markdown import heading, line

BENCHMARKS = ("POPE", "MME", "GQA", "TextVQA", "MMBench")
MMTOK = "[MMTok](https://arxiv.org/abs/2508.18264), table 1"
IDPRUNER = "[IDPruner's authors](https://github.com/Tencent/AngelSlim/blob/main/docs/source/features/token_compressor/idpruner.md)"


@dataclass(frozen=True)
class Reported:
    """A line of a paper: a model, what was done, and scores in the order of ``BENCHMARKS``, None where not given."""

    model: str
    pruning: str
    scores: tuple[float | None, ...]
    source: str


LLAVA, QWEN = "LLaVA-1.5-7B", "Qwen2.5-VL-7B"
REPORTED = (
    Reported(LLAVA, "none, 576 tokens", (85.9, 1862, 61.9, 58.2, 64.7), MMTOK),
    Reported(LLAVA, "DivPrune, 192 tokens", (87.0, 1762.23, 59.97, 56.97, 62.54), MMTOK),
    Reported(LLAVA, "DivPrune, 128 tokens", (86.72, 1718.22, 59.25, 56.06, 62.03), MMTOK),
    Reported(LLAVA, "DivPrune, 64 tokens", (85.56, 1674.4, 57.78, 54.69, 59.28), MMTOK),
    Reported(LLAVA, "FastV, 192 tokens", (64.8, 1612, 52.7, 52.5, 61.2), MMTOK),
    Reported(LLAVA, "FastV, 64 tokens", (48.0, 1256, 46.1, 47.8, 48.0), MMTOK),
    Reported(QWEN, "none", (87.8, 1702, None, 82.74, 83.08), IDPRUNER),
    Reported(QWEN, "DivPrune, 25 %", (85.88, 1650, None, 75.88, 77.84), IDPRUNER),
    Reported(QWEN, "DivPrune, 10 %", (81.91, 1529, None, 62.72, 72.16), IDPRUNER),
    Reported(QWEN, "IDPruner with VisionSelector's scorer, 25 %", (87.06, 1695, None, 80.83, 79.73), IDPRUNER),
    Reported(QWEN, "IDPruner with VisionSelector's scorer, 10 %", (85.43, 1618, None, 74.43, 74.66), IDPRUNER),
    Reported(QWEN, "VisionSelector, 10 %", (82.69, 1569, None, 74.52, 71.65), IDPRUNER),
    Reported(QWEN, "FastV, 10 %", (76.31, 1332, None, 72.59, 55.58), IDPRUNER),
)


def table() -> str:
    """What is reported, with an empty column for what a reader measures."""
    lines = heading(("model", "pruning", *BENCHMARKS, "reported by", "yours"))
    for each in REPORTED:
        scores = ("-" if score is None else f"{score:,.10g}" for score in each.scores)
        lines.append(line((each.model, each.pruning, *scores, each.source, "")))
    return "\n".join(lines)
