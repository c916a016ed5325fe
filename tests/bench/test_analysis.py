"""The benchmark of the analysis, on a fraction of its inputs."""

import json

import pytest

pytest.importorskip("matplotlib")
pytest.importorskip("transformers")
pytest.importorskip("bench.analysis", reason="needs the source tree and scikit-image")

from PIL import Image

from bench import analysis as bench
from bench import analysis_table, files, render
from bench.accuracy.settings import TINY
from tokenprune_kernels import analysis
from tokenprune_kernels.analysis.selections import LAMS, SHARES, TEMPERATURES


@pytest.fixture
def small(monkeypatch, tmp_path):
    monkeypatch.setattr(bench, "SETTINGS", TINY)
    monkeypatch.setattr(bench, "SIDES", (70, 84))
    monkeypatch.setattr(bench, "SHOWN_SIDE", 70)
    monkeypatch.setattr(files, "RESULTS", tmp_path)
    monkeypatch.setattr(render, "write", lambda: None)
    return tmp_path


@pytest.mark.slow
def test_the_result_of_saved_features(small, monkeypatch, capsys):
    given = bench.samples
    monkeypatch.setattr(bench, "samples", lambda directory: given(directory)[-6:-3])
    monkeypatch.setattr(bench, "KEEP_RATIOS", (0.2,))
    assert bench.main([]) == 0
    result = json.loads((small / "analysis.json").read_text())
    assert [row["sample"] for row in result["rows"]] == [
        f"{name.partition('.')[0]}, tower at 70" for name in bench.EMBEDDED
    ]
    for row in result["rows"]:
        assert (row["tokens"], row["k"], row["keep_ratio"]) == (25, 5, 0.2)
        assert 0 <= row["against"]["naive mixture"]["lower"] <= 1
    shown = analysis_table.table(result)
    assert shown in capsys.readouterr().out
    assert "class attention | 25, k = 5 |" in shown
    assert Image.open(small / "analysis.png").width > 300
    assert Image.open(small / "analysis-angles.png").width > 300
    assert str(small) not in json.dumps(result)


def test_photographs_come_first(small):
    samples = bench.samples(small)
    assert [sample.name for sample in samples[: len(bench.PICTURES)]] == [
        name.partition(".")[0] for name in bench.PICTURES
    ]
    steps = analysis.steps(samples[0], 20)
    assert len(steps) == 5 + len(LAMS) + len(SHARES) + len(TEMPERATURES)


def test_the_towers_tokens_come_at_every_size(small):
    samples = bench.samples(small)[len(bench.PICTURES) :]
    assert [(len(sample.x), sample.grid) for sample in samples] == [(25, (5, 5))] * 3 + [(36, (6, 6))] * 3
    assert all(sample.weighed_by == "saved importance" for sample in samples)
    assert all(0 < float(sample.importance.sum()) < 1 for sample in samples)  # the rest goes to the class token
