"""The files and the table that an analysis writes."""

import csv

import pytest
import torch

from tests.support.measurements import measured_of
from tokenprune_kernels import analysis
from tokenprune_kernels.analysis import report
from tokenprune_kernels.analysis.samples import Sample
from tokenprune_kernels.analysis.selections import Measurement

Image = pytest.importorskip("PIL.Image")
FigureCanvasAgg = pytest.importorskip("matplotlib.backends.backend_agg").FigureCanvasAgg


def test_the_report(samples, measurements, tmp_path):
    files = analysis.write_report(samples, measurements, tmp_path / "new" / "report")
    assert [path.name for path in files] == ["measurements.csv", "pareto.png", "kept.png", "angles.png"]
    for path in files[1:]:
        assert min(Image.open(path).size) > 300
    with files[0].open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(measurements)
    for row, each in zip(rows, measurements, strict=True):
        assert (row["sample"], row["selector"], row["k"]) == (each.sample, each.selector, "9")
        assert row["parameter"] == ("" if each.parameter is None else str(each.parameter))
        assert float(row["hopkins"]) == each.hopkins
    assert "kept" not in rows[0]
    without_grid = analysis.write_report(samples[1:], measurements, tmp_path / "other")
    assert [path.name for path in without_grid] == ["measurements.csv", "pareto.png", "angles.png"]


def test_a_picture_of_an_earlier_run_does_not_stay(samples, measurements, tmp_path):
    analysis.write_report(samples, measurements, tmp_path)
    (tmp_path / "notes.txt").write_text("mine")
    files = analysis.write_report(samples[1:], measurements, tmp_path)
    assert sorted(tmp_path.iterdir()) == sorted([*files, tmp_path / "notes.txt"])


def test_a_directory_that_cannot_be_made_is_named(samples, measurements, tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "taken" / "measurements.csv").mkdir(parents=True)
    for out in ("file", "taken"):
        with pytest.raises(ValueError, match=r"^out: expected a directory that can be written to, got"):
            analysis.write_report(samples, measurements, tmp_path / out)


def test_the_table_has_a_line_for_each_selector(samples, measurements):
    first, second = (block.splitlines() for block in analysis.table(samples, measurements).split("\n\n"))
    assert first[0] == "first: 9 of 48 tokens, importance is norm"
    assert [line[2:20].strip() for line in first[1:8]] == [
        "selector",
        "DivPrune",
        "top-k importance",
        "IDPruner",
        "DPP at 1",
        "random",
        "uniform grid",
    ]
    assert len({len(line) for line in first[1:8]}) == 1
    assert "1.000" in first[3]
    against = report.comparisons(measurements, "first")["naive mixture"]
    assert first[8].startswith(f"  MMR against naive mixture: lower Hopkins statistic on {100 * against.lower:.0f} %")
    assert f"{against.area:+.4f}" in first[8]
    assert first[9].startswith("  MMR against DPP: ")
    assert len(second) == len(first) - 1


def made(selector, retention, statistic, parameter=0.5, sample="made"):
    """A selection with the given trade-off, whose other measures say the opposite."""
    opposite = 1 - statistic
    return Measurement(sample, selector, parameter, 9, retention, statistic, *[opposite] * 5, 1.0, None)


def test_comparisons_are_of_mmr_against_the_others():
    measured = [
        *(made("MMR", retention, statistic) for retention, statistic in ((0.5, 0.2), (1.0, 0.4))),
        *(made("naive mixture", retention, statistic) for retention, statistic in ((0.5, 0.3), (1.0, 0.6))),
        *(made("DPP", retention, statistic) for retention, statistic in ((0.5, 0.1), (1.0, 0.3))),
        made("MMR", 1.0, 0.0, sample="another"),
        made("naive mixture", 1.0, 0.0, sample="another"),
        made("DPP", 1.0, 0.9, sample="another"),
    ]
    against = report.comparisons(measured, "made")
    assert list(against) == ["naive mixture", "DPP"]
    mixture, dpp = against.values()
    assert (mixture.start, mixture.end, mixture.lower, mixture.higher) == (0.5, 1.0, 1.0, 0.0)
    assert (mixture.area, mixture.mean) == (pytest.approx(0.075), pytest.approx(0.15))
    assert (dpp.start, dpp.end, dpp.lower, dpp.higher) == (0.5, 1.0, 0.0, 1.0)
    assert (dpp.area, dpp.mean) == (pytest.approx(-0.05), pytest.approx(-0.1))
    measured += [made(selector, 0.7, 0.5, None) for selector in ("DivPrune", "top-k importance", "IDPruner")]
    measured.append(made("DPP", 0.4, 0.9, 1.0))
    sample = Sample("made", torch.ones(48, 2), torch.ones(48), "norm")
    assert [line.strip() for line in analysis.table([sample], measured).splitlines()[-2:]] == [
        "MMR against naive mixture: lower Hopkins statistic on 100 % of the retentions from 0.500 to 1.000, "
        "higher on 0 %; area between the frontiers +0.0750, +0.1500 on average",
        "MMR against DPP: lower Hopkins statistic on 0 % of the retentions from 0.500 to 1.000, "
        "higher on 100 %; area between the frontiers -0.0500, -0.1000 on average",
    ]


def test_the_table_has_each_measure_under_its_heading(samples, measurements):
    for sample, block in zip(samples, analysis.table(samples, measurements).split("\n\n"), strict=True):
        headings, *lines = (
            [line[:20].strip(), *(line[i : i + 13].strip() for i in range(20, len(line), 13))]
            for line in block.splitlines()[1:-2]
        )
        for line in lines:
            cells = dict(zip(headings, line, strict=True))
            selector, _, parameter = cells["selector"].partition(" at ")
            each = measured_of(measurements, sample, selector, float(parameter) if parameter else None)
            assert cells == {
                "selector": cells["selector"],
                "retention": f"{each.importance_retention:.3f}",
                "Hopkins": f"{each.hopkins:.3f}",
                "among tokens": f"{each.hopkins_among_tokens:.3f}",
                "smallest d.": f"{each.smallest_distance:.3f}",
                "mean d.": f"{each.mean_distance:.3f}",
                "coverage": f"{each.coverage_mean:.3f}",
                "worst": f"{each.coverage_worst:.3f}",
                "ms": f"{each.milliseconds:.2f}",
            }
