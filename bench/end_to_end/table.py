"""Results as Markdown."""

from __future__ import annotations

from typing import Any

from bench.markdown import line, number

# Alvar et al., CVPR 2025 (arXiv 2503.02175), LLaVA-NeXT-Video-7B, DivPrune 10 % against none, on their own machine.
PAPER_VIDEO = ("-55 %", "-22 %", "-400 MB")

# Percent of the pruned prefill at full depth, vision tower included, that the operator and the whole step stay under.
TARGETS = {"cpu": {"operator": 3.0}, "cuda": {"operator": 1.0, "step": 8.0}}


def summary(result: dict[str, Any]) -> str:
    """A table for each model, and what was measured how."""
    blocks = [model_table(model, result) for model in result["models"]]
    return "\n\n".join([*blocks, "\n".join(notes(result))])


def model_table(model: dict[str, Any], result: dict[str, Any]) -> str:
    """The pruners of one model."""
    reduced = is_reduced(model)
    header = [
        "pruning",
        "visual tokens",
        "TFLOPs",
        "prefill, ms",
        *(["at full depth, extrapolated, ms"] if reduced else []),
        f"{result['new_tokens']} new tokens, ms",
        "peak memory, GB",
        "selection, ms (of prefill)",
        "whole step, ms (of prefill)",
    ]
    lines = [
        f"**{model['name']}**, {model['visual']}, {depth(model)}",
        "",
        line(header),
        line("---" for _ in header),
    ]
    for row in model["rows"]:
        cells = [
            row["pruner"] + (" (wrong)" if row["correct"] is False else ""),
            f"{row['visual_tokens']:,}",
            number(row["teraflops"]),
            spread(row["prefill"]),
            *([number(row["full_depth"])] if reduced else []),
            spread(row["generation"]),
            "-" if row["memory"] is None else f"{1e-9 * row['memory']:.2f}",
        ]
        lines.append(line([*cells, with_share(row, "operator"), with_share(row, "step")]))
    if model["modality"] == "video":
        lines += beside_the_paper(model)
    return "\n".join(lines)


def is_reduced(model: dict[str, Any]) -> bool:
    """Whether layers are missing."""
    return any(kept != whole for kept, whole in (model["layers"], model["vision_layers"]))


def depth(model: dict[str, Any]) -> str:
    """The depth that ran, in words."""
    (layers, all_layers), (vision_layers, all_vision_layers) = model["layers"], model["vision_layers"]
    return f"{layers} of {all_layers} layers, {vision_layers} of {all_vision_layers} in the vision tower"


def share(row: dict[str, Any], part: str) -> float | None:
    """Percent of the row's own prefill at full depth."""
    if row[part] is None or row["full_depth"] is None:
        return None
    return 100.0 * row[part]["median"] / row["full_depth"]


def with_share(row: dict[str, Any], part: str) -> str:
    """A time and its share."""
    return "-" if row[part] is None else f"{median(row[part])} ({number(share(row, part))} %)"


def beside_the_paper(model: dict[str, Any]) -> list[str]:
    """What DivPrune saves on the video, and what its paper reports; nothing where there are no times."""
    unpruned, pruned = model["rows"][:2]
    if unpruned["prefill"] is None or pruned["prefill"] is None:
        return []
    header = (f"{pruned['pruner']} against none", "prefill", "end to end", "peak memory")
    saved = [
        percent(pruned["prefill"]["median"], unpruned["prefill"]["median"]),
        percent(pruned["generation"]["median"], unpruned["generation"]["median"]),
        f"{1e-6 * (pruned['memory'] - unpruned['memory']):+,.0f} MB",
    ]
    lines = ["", line(header), line("---" for _ in header), line([f"here, {depth(model)}", *saved])]
    if is_reduced(model):
        extrapolated = percent(pruned["full_depth"], unpruned["full_depth"])
        lines.append(line(["here, extrapolated to full depth", extrapolated, "-", "-"]))
    return [*lines, line(["as the paper reports, of its machine", *PAPER_VIDEO])]


def percent(value: float, before: float) -> str:
    """The change in percent."""
    return f"{100 * (value / before - 1):+.0f} %"


def median(times: dict[str, Any] | None) -> str:
    return number(None if times is None else times["median"])


def spread(times: dict[str, Any] | None) -> str:
    return "-" if times is None else f"{median(times)} ({number(times['least'])} to {number(times['most'])})"


def notes(result: dict[str, Any]) -> list[str]:
    """What the numbers are, how the shares compare with the targets, and the machine."""
    machine, reduced = result["machine"], any(map(is_reduced, result["models"]))
    memory = "of the allocator" if result["device"] == "cuda" else "of the process"
    lines = [
        f"bfloat16, random weights, one prompt with {result['text_tokens']} text tokens; medians (least to most) of "
        f"{result['runs']} runs of `generate`. Prefill: from the model inputs to the first logits, with the vision "
        "tower and the pruning; its TFLOPs are of the full depth, by the DivPrune paper's formula. Selection: the "
        "operator, or the loop, alone. Whole step: selection, gathering and editing of the inputs, without the vision "
        f"tower, which runs in either case. Peak memory: {memory}, weights included, at the depth that ran."
    ]
    if reduced:
        lines.append(
            "Full depth is extrapolated: to each run, every missing layer adds the time that the layers of its kind "
            "took in that run. Percentages are of the extrapolated prefill in the same line."
        )
    if any(row["correct"] is False for model in result["models"] for row in model["rows"]):
        lines.append("Wrong: the float64 replay rejects the picks.")
    lines.append(targets(result))
    versions = ", ".join(f"{name} {machine[name]}" for name in ("torch", "transformers", "python"))
    where = f"{machine['name']}, {machine['threads']} CPU threads"
    if result["device"] == "cuda":
        where += f", CUDA {machine['cuda']}"
    return [*lines, f"{where}, {versions}."]


def targets(result: dict[str, Any]) -> str:
    """The largest shares of this package's rows beside what they shall stay under."""
    rows = [row for model in result["models"] for row in model["rows"] if not row["published"]]
    parts = []
    for part, name in (("operator", "selection"), ("step", "whole step")):
        largest = max((value for row in rows if (value := share(row, part)) is not None), default=None)
        target = TARGETS[result["device"]].get(part)
        wanted = f" (target: under {target:.0f} %)" if target else ""
        parts.append(f"{name} {number(largest)} %{wanted}")
    return f"Largest shares of the prefill, published loop apart: {', '.join(parts)}."
