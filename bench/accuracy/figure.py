"""The figure of ``python -m bench accuracy``: scores against the share of the tokens, one panel for each task."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bench.accuracy.methods import DIVPRUNE, DOWNSAMPLED, RANDOM, UNPRUNED
from bench.accuracy.score import ALL
from bench.accuracy.settings import TASKS

SHOWN = {
    DIVPRUNE: "#1f5fbf",
    "IDPruner, class attention": "#7b3fb5",
    "DPP, class attention": "#1b9e77",
    "top k by class attention": "#d95f02",
    "top k by VisionSelector's scorer": "#e6ab02",
    "FastV": "#c2185b",
    "uniform grid": "#8a8a8a",
    RANDOM: "#4d4d4d",
    DOWNSAMPLED: "#111111",
}
DASHED = ("uniform grid", RANDOM, DOWNSAMPLED)
PANELS = (ALL, *TASKS)


def save(result: dict[str, Any], path: Path) -> None:
    """Draws the figure."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    rows = result["rows"]
    whole = next(row for row in rows if row["method"] == UNPRUNED)
    drawn, axes = pyplot.subplots(1, len(PANELS), figsize=(3.1 * len(PANELS), 3.4), sharex=True, layout="constrained")
    for panel, task in zip(axes, PANELS, strict=True):
        panel.axhline(100 * whole["scores"][task][0], color="black", linewidth=0.8, linestyle=":")
        for name, colour in SHOWN.items():
            own = sorted((row for row in rows if row["method"] == name), key=lambda row: row["tokens"])
            shares = [100 * row["tokens"] / whole["tokens"] for row in own]
            mean, low, high = ([100 * row["scores"][task][i] for row in own] for i in range(3))
            panel.plot(
                shares, mean, color=colour, marker="o", ms=3, lw=1.4, ls="--" if name in DASHED else "-", label=name
            )
            panel.fill_between(shares, low, high, color=colour, alpha=0.08, linewidth=0)
        panel.set_xscale("log")
        ticks = sorted({100 * row["ratio"] for row in rows if row["method"] == DIVPRUNE})
        panel.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        panel.minorticks_off()
        panel.set_title("mean of the tasks" if task == ALL else task, fontsize=10)
        panel.set_xlabel("% of the tokens, averaged over the layers", fontsize=8)
        panel.tick_params(labelsize=8)
    axes[0].set_ylabel("% right", fontsize=8)
    drawn.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=len(SHOWN), fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    drawn.savefig(path, dpi=130)
    pyplot.close(drawn)
