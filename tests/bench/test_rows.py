"""The benchmark of a million rows, on few: its judge, its loops, its tables, and that it goes on."""

import json

import numpy as np
import pytest
import torch

pytest.importorskip("bench", reason="the benchmarks are only in the source tree")

from bench import clusters, rows, rows_judge, rows_table, rows_worker
from tests.support.inputs import oracle
from tokenprune_kernels.verify import verify_trace

CASE = rows.Case(300, 16, 0.3, 20)


@pytest.fixture
def x():
    return clusters.tokens_and_clusters(CASE.rows, CASE.noise, CASE.depth)


def test_the_judge_agrees_with_the_replay(x, monkeypatch):
    monkeypatch.setattr(rows_judge, "_PICKS", 64)
    tokens, members = x
    members = members % 7  # of few rows, most clusters have one
    right = torch.ops.tokenprune.divprune(tokens, CASE.rows)
    assert rows_judge.mistake(tokens, members, right) == ""
    assert verify_trace("divprune", tokens, right)
    for step in (0, 1, 63, 64, 150):
        wrong = right.clone()
        wrong[[step, step + 100]] = wrong[[step + 100, step]]
        verdict = verify_trace("divprune", tokens, wrong)
        assert rows_judge.mistake(tokens, members, wrong) == f"pick {verdict.step}: {verdict.reason}"
    assert rows_judge.mistake(tokens, members, right[[0, 1, 1]]) == "a pick is repeated or out of range"
    assert rows_judge.mistake(tokens, members, torch.tensor([0, 300])) == "a pick is repeated or out of range"


def test_the_judge_looks_at_other_clusters_too(x):
    tokens, _ = x
    right = torch.ops.tokenprune.divprune(tokens, 3)
    for members in (torch.arange(CASE.rows), torch.zeros(CASE.rows, dtype=torch.int64)):
        assert rows_judge.mistake(tokens, members, right) == ""
        assert rows_judge.mistake(tokens, members, right.flip(0)).startswith("pick 0: ")


def request(x, tmp_path, **more):
    np.save(tmp_path / "rows.npy", x.numpy())
    return {"file": str(tmp_path / "rows.npy"), "k": CASE.k, "seconds": 60.0, "out": str(tmp_path / "made"), **more}


@pytest.mark.parametrize("way", ["NumPy loop", "faiss loop"])
def test_loops_pick_what_the_oracle_picks_from_the_first_on(x, way, tmp_path):
    if way == "faiss loop":
        pytest.importorskip("faiss", reason="a peer of the benchmark alone")
    expected = oracle("divprune", x[0], None, CASE.k)[0].tolist()
    made = rows_worker.WAYS[way](request(x[0], tmp_path, first=expected[0]))
    assert np.load(tmp_path / "made.npy").tolist() == expected
    assert made["measured_rounds"] == CASE.k - 1


def test_a_loop_without_time_measures_no_round(x, tmp_path):
    made = rows_worker.numpy_loop(request(x[0], tmp_path, first=3, seconds=0.0))
    assert np.load(tmp_path / "made.npy").tolist() == [3]
    assert made["measured_rounds"] == 0


@pytest.mark.slow
def test_the_operator_and_the_command_in_processes_of_their_own(x, tmp_path):
    given = request(x[0], tmp_path)
    expected = oracle("divprune", x[0], None, CASE.k)[0].tolist()
    for way in (rows.Way("operator", threads=1), rows.Way("select", processes=2, threads=1)):
        made = rows.call(way, given, tmp_path / "made")
        assert np.load(tmp_path / "made.npy").tolist() == expected
        assert made["seconds"] > 0
        assert made["threads_used"] == 1
    assert made["collectives"] > 3


def stand_in(calls):
    """In the place of processes: the operator in this one."""

    def call(way, given, out):
        calls.append(way.way)
        if way.way == "photograph":
            return {"rows": 400, "k": 40, "collectives": 7, "received_megabytes": 1.5, "same_as_one_process": True}
        made = rows_worker.operator(given | {"out": str(out)})
        if way.way in rows.PEERS:
            np.save(f"{out}.npy", np.load(f"{out}.npy")[:5])
            made |= {"measured_rounds": 4}
        return made | {"threads_used": 1} | ({"collectives": 9, "received_megabytes": 2.0} if way.processes > 1 else {})

    return call


def test_a_run_goes_on_where_it_has_ended_and_is_shown(monkeypatch, tmp_path, capsys):
    calls = []
    monkeypatch.setattr(rows, "SMALL", (CASE,))
    monkeypatch.setattr(rows, "call", stand_in(calls))
    monkeypatch.setattr(rows.files, "processor", lambda: "Some CPU")
    out = tmp_path / "rows.json"
    given = ["--small", "--out", str(out), "--folder", str(tmp_path)]
    assert rows.main(given) == 0
    assert len(calls) == len(rows.WAYS) + 12
    first = out.read_text()
    assert rows.main(given) == 0
    assert len(calls) == len(rows.WAYS) + 12
    assert out.read_text() == first
    made = json.loads(first)
    made["cells"].pop()
    out.write_text(json.dumps(made))
    assert rows.main(given) == 0
    assert calls[-2:] == ["operator", "faiss loop"]
    made = json.loads(first)
    lines = rows_table.table(made).splitlines()
    assert lines[0].startswith("| N x D | noise | k | operator | operator, 1 thread | select | select, 1 thread | ")
    assert " | select, 2 processes | select, 2 processes, 1 thread | NumPy loop | faiss loop | MB | " in lines[0]
    assert lines[2].startswith("| 300 x 16 | 0.3 | 20 | ")
    assert lines[2].count("* | ") == 2
    assert lines[2].endswith(" | 9 | 2.00 | 5 of 5, 5 of 5 | right |")
    assert "Some CPU" in lines[-1]
    assert rows_table.photographs(made).splitlines()[2] == "| astronaut | divprune | 400, 40 | 2 | 7 | 1.50 | yes |"
    assert (tmp_path / "rows.png").stat().st_size > 1_000


def test_what_failed_or_is_not_right_is_said():
    case = {"rows": 5, "depth": 2, "noise": 0.3, "k": 3}
    machine = {"processor": "Some CPU", "instruction_sets": ["fast"], "threads": 2, "torch": "1.0"}
    operator = case | {"way": "operator", "processes": 1, "threads": None}
    ran = operator | {"seconds": 1.0, "megabytes": 2.0, "digest": "a"}
    failed = case | {"way": "select", "processes": 2, "threads": 1, "note": "exit 1"}
    loop = case | {"way": "NumPy loop", "processes": 1, "threads": None, "seconds": 9.0, "megabytes": 3.0}
    loop |= {"measured_rounds": 1, "same_picks": 1}
    for cells, judged, said in (
        ([operator | {"note": "timed out"}], [], " | - | - | - | - | - | not judged; operator: timed out |"),
        ([ran], [case | {"digest": "a", "note": ""}], " | 1.00 | 2.00 | - | - | - | right |"),
        ([ran], [case | {"digest": "b", "note": ""}], " | operator: others than the operator's |"),
        ([ran], [case | {"digest": "a", "note": "pick 1: wrong"}], " | pick 1: wrong |"),
        ([ran, loop], [], " | 1.00 | 9.00* | 2.00 / 3.00 | - | - | 1 of 2 | not judged |"),
        ([ran, failed], [], " | 1.00 | - | 2.00 | - | - | - | not judged; select, 2 processes, 1 thread: exit 1 |"),
    ):
        result = {"machine": machine, "cells": cells, "judged": judged}
        assert rows_table.table(result).splitlines()[2].endswith(said)
