"""The result of ``python -m bench analysis`` as Markdown."""

from __future__ import annotations

from typing import Any

from bench.markdown import heading, line
from tokenprune_kernels.analysis.selections import DPP, MIXTURE


def table(result: dict[str, Any]) -> str:
    """The result as Markdown."""
    lines = heading(
        (
            "tokens",
            "importance",
            "N, k",
            "MMR lower than the naive mixture on",
            "area between",
            "mean difference",
            "MMR lower than the DPP on",
            "area between",
            "mean difference",
        )
    )
    for each in result["rows"]:
        cells = [each["sample"], each["importance"].replace("saved importance", "class attention")]
        cells.append(f"{each['tokens']:,}, k = {each['k']:,}")
        for other in (MIXTURE, DPP):
            against = each["against"][other]
            cells += [f"{100 * against['lower']:.0f} %", f"{against['area']:+.4f}", f"{against['mean']:+.4f}"]
        lines.append(line(cells))
    return "\n".join(lines)
