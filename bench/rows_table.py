"""The tables and the figure of ``python -m bench rows``."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from bench.files import file_name
from bench.markdown import heading, line, number

_COLOURS = {"operator": "#1f5fbf", "select": "#1b9e77", "NumPy loop": "#d95f02", "faiss loop": "#7b3fb5"}


def with_figure(result: dict[str, Any]) -> str:
    """The table, and the figure beside the results."""
    name = Path(file_name("rows", result["machine"]["processor"])).with_suffix(".png")
    return f"{table(result)}\n\n![Seconds against N and against k](../bench/results/{name})"


def table(result: dict[str, Any]) -> str:
    """All calls on rows in clusters, a line for each case."""
    machine, cells = result["machine"], result["cells"]
    ways = list(dict.fromkeys(map(_name, cells)))
    cases = list(dict.fromkeys(map(_case_of, cells)))
    columns = ("N x D", "noise", "k", *ways, "MB", "collectives", "MB received", "as in the loops", "picks")
    lines = heading(columns)
    for case in cases:
        of_case = {_name(cell): cell for cell in cells if _case_of(cell) == case}
        judged = next((each for each in result["judged"] if _case_of(each) == case), None)
        lines.append(line(_cells(case, of_case, ways, judged)))
    sentence = (
        "Seconds of one call each, float32, 1,000 clusters; noise is the norm of what is added to their centres. Where "
        f"the heading does not say how many, each process has {machine['threads']} threads. Loops start from our first "
        "pick. Of a time with a star, a part of the rounds was measured, and the others have the same time each; so "
        "many of its picks were compared. MB are beside the rows, in the larger process: the operator, the command, "
        "the command in two processes, and a loop. Picks that are right are those of all ways but the loops, and pass "
        f"the float64 replay. {machine['processor']} ({machine['instruction_sets'][-1]}), torch {machine['torch']}."
    )
    return "\n".join([*lines, "", sentence])


def _case_of(made: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(made[name] for name in ("rows", "depth", "noise", "k"))


def _name(cell: dict[str, Any]) -> str:
    processes = f", {cell['processes']} processes" if cell["processes"] > 1 else ""
    return f"{cell['way']}{processes}" + (", 1 thread" if cell["threads"] == 1 else "")


def _cells(
    case: tuple[Any, ...], cells: dict[str, dict[str, Any]], ways: list[str], judged: dict[str, Any] | None
) -> Iterable[str]:
    rows, depth, noise, k = case
    yield f"{rows:,} x {depth}"
    yield f"{noise:g}"
    yield f"{k:,}"
    ran = {name: cell for name, cell in cells.items() if "seconds" in cell}
    for way in ways:
        part = way in ran and ran[way].get("measured_rounds", k - 1) < k - 1
        yield number(ran[way]["seconds"]) + "*" * part if way in ran else "-"
    megabytes: dict[tuple[str, int], float] = {}
    for cell in ran.values():
        kind = "loop" if "measured_rounds" in cell else cell["way"], cell["processes"]
        megabytes[kind] = max(megabytes.get(kind, 0.0), cell["megabytes"])
    yield " / ".join(map(number, megabytes.values())) or "-"
    together = next((cell for cell in ran.values() if "collectives" in cell), {})
    yield f"{together['collectives']:,}" if together else "-"
    yield number(together.get("received_megabytes"))
    loops = [cell for cell in ran.values() if "measured_rounds" in cell]
    yield ", ".join(f"{cell['same_picks']:,} of {cell['measured_rounds'] + 1:,}" for cell in loops) or "-"
    failed = [f"{name}: {cell['note']}" for name, cell in cells.items() if "note" in cell]
    yield "; ".join([_verdict(ran, judged), *failed])


def _verdict(ran: dict[str, dict[str, Any]], judged: dict[str, Any] | None) -> str:
    if judged is None:
        return "not judged"
    others = [name for name, cell in ran.items() if cell.get("digest", judged["digest"]) != judged["digest"]]
    if others:
        return f"{' and '.join(others)}: others than the operator's"
    return judged["note"] or "right"


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
