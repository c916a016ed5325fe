"""The results of an analysis: three figures, a CSV file of every selection, and a table."""

from __future__ import annotations

import csv
import dataclasses
from collections.abc import Sequence
from pathlib import Path

from . import figures
from .frontier import Comparison, Point, compare
from .samples import Sample
from .selections import DPP, MIXTURE, MMR, SHOWN, Measurement, shown

_COLUMNS = [each.name for each in dataclasses.fields(Measurement) if each.name != "kept"]
_FIGURES = {
    "pareto.png": figures.pareto,
    "kept.png": figures.kept_patches,
    "angles.png": figures.pairwise_angles,
}
_HEADINGS = (
    "selector",
    "retention",
    "Hopkins",
    "among tokens",
    "smallest d.",
    "mean d.",
    "coverage",
    "worst",
    "ms",
)


def start_measurements(out: Path) -> None:
    """Writes the heading of ``measurements.csv`` into a directory, which it makes.

    Raises:
        ValueError: if the directory cannot be written to.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(_not_writable(out, error)) from error
    _write(out, "w", [_COLUMNS])


def append_measurements(measurements: Sequence[Measurement], out: Path) -> None:
    """Adds lines to ``measurements.csv``, so that an analysis that is stopped leaves what it has measured.

    Raises:
        ValueError: if the directory cannot be written to.
    """
    lines = [[getattr(each, name) for name in _COLUMNS] for each in measurements]
    _write(out, "a", [["" if value is None else value for value in line] for line in lines])


def _write(out: Path, mode: str, lines: Sequence[Sequence[object]]) -> None:
    try:
        with (out / "measurements.csv").open(mode, newline="") as file:
            csv.writer(file).writerows(lines)
    except OSError as error:
        raise ValueError(_not_writable(out, error)) from error


def write_figures(samples: Sequence[Sample], measurements: list[Measurement], out: Path) -> list[Path]:
    """Writes ``pareto.png``, ``kept.png`` and ``angles.png`` into a directory.

    Returns:
        The files. Where no sample has a grid, there is no ``kept.png``, and that of an earlier run is removed.

    Raises:
        ValueError: if the directory cannot be written to.
        ImportError: without matplotlib.
    """
    written = []
    try:
        for name, draw in _FIGURES.items():
            figure = draw(samples, measurements)
            if figure is None:
                (out / name).unlink(missing_ok=True)  # that of an earlier run
                continue
            written.append(out / name)
            figures.save(figure, str(written[-1]))
    except OSError as error:
        raise ValueError(_not_writable(out, error)) from error
    return written


def write_report(samples: Sequence[Sample], measurements: list[Measurement], out: Path) -> list[Path]:
    """Writes ``measurements.csv`` and the figures, as ``write_figures`` does, and returns the files."""
    start_measurements(out)
    append_measurements(measurements, out)
    return [out / "measurements.csv", *write_figures(samples, measurements, out)]


def _not_writable(out: Path, error: OSError) -> str:
    return f"out: expected a directory that can be written to, got {str(out)!r} ({error.strerror})"


def trade_off(measurements: list[Measurement], sample: str, selector: str) -> list[Point]:
    """Returns the points of a selector on a sample."""
    return [
        (each.importance_retention, each.hopkins)
        for each in measurements
        if (each.sample, each.selector) == (sample, selector)
    ]


def comparisons(measurements: list[Measurement], sample: str) -> dict[str, Comparison]:
    """Compares MMR's trade-off on a sample with the naive mixture's and the DPP's."""
    mine = trade_off(measurements, sample, MMR)
    return {other: compare(mine, trade_off(measurements, sample, other)) for other in (MIXTURE, DPP)}


def table(samples: Sequence[Sample], measurements: list[Measurement]) -> str:
    """Returns a table of the selectors of each sample, and how the trade-offs compare."""
    blocks = []
    for sample in samples:
        mine = [each for each in measurements if each.sample == sample.name]
        points = [shown(measurements, sample.name, selector) for selector in SHOWN]
        points += [each for each in mine if each.parameter is None and each not in points]
        lines = [
            f"{sample.name}: {mine[0].k:,} of {len(sample.x):,} tokens, importance is {sample.weighed_by}",
            _line(_HEADINGS),
        ]
        lines += [_line(_cells(each)) for each in points]
        lines += [_sentence(other, against) for other, against in comparisons(measurements, sample.name).items()]
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks)


def _cells(each: Measurement) -> tuple[str, ...]:
    name = each.selector if each.parameter is None else f"{each.selector} at {each.parameter:g}"
    return (
        name,
        f"{each.importance_retention:.3f}",
        *(
            f"{value:.3f}"
            for value in (
                each.hopkins,
                each.hopkins_among_tokens,
                each.smallest_distance,
                each.mean_distance,
                each.coverage_mean,
                each.coverage_worst,
            )
        ),
        f"{each.milliseconds:.2f}",
    )


def _line(cells: tuple[str, ...]) -> str:
    name, *values = cells
    return f"  {name:<18}" + "".join(f"{value:>13}" for value in values)


def _sentence(other: str, against: Comparison) -> str:
    return (
        f"  MMR against {other}: lower Hopkins statistic on {100 * against.lower:.0f} % of the retentions from "
        f"{against.start:.3f} to {against.end:.3f}, higher on {100 * against.higher:.0f} %; area between the frontiers "
        f"{against.area:+.4f}, {against.mean:+.4f} on average"
    )
