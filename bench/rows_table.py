"""The tables and the figure of ``python -m bench rows``."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from bench.files import file_name
from bench.markdown import heading, line, number

_COLUMNS = (
    "N x D",
    "noise",
    "k",
    "selected by",
    "processes",
    "threads each",
    "s",
    "MB beside the rows",
    "collectives",
    "MB received",
    "picks",
)
_CASE = ("rows", "depth", "noise", "k")
_COLOURS = {"operator": "#1f5fbf", "select": "#1b9e77", "NumPy loop": "#d95f02", "faiss loop": "#7b3fb5"}


def with_figure(result: dict[str, Any]) -> str:
    """The table, and the figure beside the results."""
    name = Path(file_name("rows", result["machine"]["processor"])).with_suffix(".png")
    return f"{table(result)}\n\n![Seconds against N and against k](../bench/results/{name})"


def table(result: dict[str, Any]) -> str:
    """All calls on rows in clusters."""
    machine = result["machine"]
    rows = [line(_cells(cell, result["judged"])) for cell in result["cells"]]
    sentence = (
        "float32, 1,000 clusters; noise is the norm of what is added to their centres. One call each. Loops start from "
        "our first pick; of a time with a star, so many rounds as the picks say were measured, and the others have the "
        "same time each. Memory is that of the larger process, mapped files apart. Picks that are right pass the "
        f"float64 replay, all of them. {machine['processor']} ({machine['instruction_sets'][-1]}), torch "
        f"{machine['torch']}."
    )
    return "\n".join([*heading(_COLUMNS), *rows, "", sentence])


def _cells(cell: dict[str, Any], judged: list[dict[str, Any]]) -> Iterable[str]:
    yield f"{cell['rows']:,} x {cell['depth']}"
    yield f"{cell['noise']:g}"
    yield f"{cell['k']:,}"
    yield cell["way"]
    yield str(cell["processes"])
    if "seconds" not in cell:
        yield from ("-", "-", "-", "-", "-", cell["note"])
        return
    yield str(cell["threads_used"])
    rounds = cell.get("measured_rounds")
    yield number(cell["seconds"]) + ("*" if rounds is not None and rounds < cell["k"] - 1 else "")
    yield number(cell["megabytes"])
    yield f"{cell['collectives']:,}" if "collectives" in cell else "-"
    yield number(cell.get("received_megabytes"))
    yield _verdict(cell, judged)


def _verdict(cell: dict[str, Any], judged: list[dict[str, Any]]) -> str:
    if "same_picks" in cell:
        return f"the first {cell['same_picks']:,} of {cell['measured_rounds'] + 1:,} are the same"
    verdict = next((each for each in judged if all(each[name] == cell[name] for name in _CASE)), None)
    if verdict is None:
        return "not judged"
    if verdict["digest"] != cell["digest"]:
        return "others than the operator's"
    return verdict["note"] or "right"


def photographs(result: dict[str, Any]) -> str:
    """The collectives of photographs."""
    lines = heading(("photograph", "method", "N, k", "processes", "collectives", "MB received", "as in one process"))
    for each in result["photographs"]:
        sizes = f"{each['rows']:,}, {each['k']:,}"
        counted = (f"{each['collectives']:,}", number(each["received_megabytes"]))
        same = "yes" if each["same_as_one_process"] else "no"
        lines.append(line((each["photograph"], each["method"], sizes, str(each["processes"]), *counted, same)))
    return "\n".join(lines)


def draw(result: dict[str, Any], path: Path) -> None:
    """Draws seconds against N and against k: of the least noisy depth alone, so that one thing changes at a time."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    cells = [cell for cell in result["cells"] if "seconds" in cell]
    depth = min((cell["depth"] for cell in cells), default=0)
    noise = max((cell["noise"] for cell in cells), default=0.0)
    cells = [cell for cell in cells if (cell["depth"], cell["noise"]) == (depth, noise)]
    drawn, panels = pyplot.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    for panel, along, fixed in zip(panels, ("rows", "k"), ("k", "rows"), strict=True):
        value = (min if fixed == "k" else max)((cell[fixed] for cell in cells), default=0)
        for way, processes in sorted({(cell["way"], cell["processes"]) for cell in cells}):
            own = [
                cell
                for cell in cells
                if (cell["way"], cell["processes"], cell[fixed]) == (way, processes, value) and cell["threads"] is None
            ]
            points = sorted((cell[along], cell["seconds"]) for cell in own)
            name = way if processes == 1 else f"{way}, {processes} processes"
            style = "-" if processes == 1 else "--"
            panel.plot(*zip(*points, strict=True), style, marker="o", ms=3, color=_COLOURS[way], label=name)
        panel.set(xscale="log", yscale="log", xlabel="N" if along == "rows" else "k")
        panel.set_title(f"D = {depth}, {'N' if fixed == 'rows' else 'k'} = {value:,}", fontsize=10)
    panels[0].set_ylabel("seconds")
    panels[0].legend(fontsize=7)
    path.parent.mkdir(parents=True, exist_ok=True)
    drawn.savefig(path, dpi=130)
    pyplot.close(drawn)
