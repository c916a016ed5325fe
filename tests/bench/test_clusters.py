"""The benchmark of many rows in clusters, on few."""

import pytest
import torch

pytest.importorskip("bench", reason="the benchmarks are only in the source tree")

from bench import clusters
from tests.support.inputs import oracle


def test_the_loop_picks_what_the_oracle_picks():
    x = clusters.tokens(300, 0.3)
    expected = oracle("divprune", x, None, 20)[0].tolist()
    assert clusters.picked_by_loop(x, expected[0], 20) == expected


def test_rows_are_as_far_from_their_centres_as_the_noise_says():
    assert torch.allclose(clusters.tokens(2_000, 0.02).norm(dim=1), torch.ones(2_000), atol=0.01)


def test_a_row_has_the_loop_where_it_is_not_too_long(monkeypatch):
    monkeypatch.setattr(clusters, "K", 30)
    monkeypatch.setattr(clusters, "MOST_ROWS_OF_THE_LOOP", 1_000)
    cells = [clusters.measured(count, 0.3) for count in (1_000, 1_001)]
    assert cells[0]["same_picks"] == 30
    assert "loop" not in cells[1]
    machine = {"processor": "Some CPU", "instruction_sets": ["fast"], "threads": 2, "torch": "1.0"}
    lines = clusters.table({"machine": machine, "cells": cells}).splitlines()
    assert lines[2].endswith("| 30 |")
    assert lines[3].endswith("| - | - |")
    assert "Some CPU (fast), 2 threads" in lines[5]


def test_a_run_is_written(monkeypatch, capsys):
    written = []
    monkeypatch.setattr(clusters.files, "write", lambda name, made: written.append((name, len(made["cells"]))))
    monkeypatch.setattr(clusters.render, "write", lambda: None)
    monkeypatch.setattr(clusters, "K", 5)
    monkeypatch.setattr(clusters.files, "processor", lambda: "Some CPU")
    for options in ([], ["--no-write"]):
        assert clusters.main(["--rows", "200", *options]) == 0
    assert written == [("clusters-some-cpu.json", 2)]
