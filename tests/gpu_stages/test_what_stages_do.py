"""What the stages do on a GPU, as far as it can be tried without one."""

import dataclasses
import json
import time

import pytest
import torch

pytest.importorskip("bench", reason="the benchmarks are only in the source tree")
pytest.importorskip("triton")

from bench.gpu import ahead, bits_stage, calls, contact_stage, e2e_stage, probes, profile_stage, speed_stage, tune_stage
from bench.gpu.findings import Finding, Findings
from bench.gpu.process import WrongResultError
from bench.times import Times
from tests.bench.common import row
from tests.conftest import INTERPRETED
from tokenprune_kernels.backends.triton import configs, kernels

interpreted = pytest.mark.parametrize(
    "backend", [pytest.param(("triton", "cpu"), id="triton", marks=pytest.mark.interpret)], indirect=True
)
compiled = pytest.mark.skipif(INTERPRETED, reason="interpreted kernels are not compiled")


def test_contact_launches_every_kernel_in_every_form():
    small = calls.small_calls()
    assert len({call.name for call in small}) == len(small)
    launched = {name for call in small for name in calls.kernels_of(call)}
    assert launched == {name for name in kernels.__all__ if name.endswith("_kernel")}
    tried = {(call.case.method, call.form, call.case.tokens.layout) for call in small}
    for method in calls.METHODS_WITH_FORMS:
        assert {(method, form, layout) for form in calls.FORMS for layout in ("single", "packed")} <= tried
    assert {("dpp", None, "single"), ("dpp", None, "packed")} <= tried
    names = contact_stage.checks("cuda")
    assert list(names)[:2] == ["copy", "grid barrier"]
    assert {f"candidates, many ties, {warps} warps" for warps in (4, 8)} <= set(names)


@interpreted
@pytest.mark.parametrize("values", [probes.FEW_TIES, probes.MANY_TIES])
def test_candidates_are_checked(backend, values, monkeypatch):
    probes.choose(4, values, "cpu", length=200, max_candidates=16)
    launch = probes.choice_kernel

    class Wrong:
        def __getitem__(self, grid):
            def run(keys, rows, *rest, **options):
                launch[grid](keys, rows, *rest, **options)
                rows[0] += 1

            return run

    monkeypatch.setattr(probes, "choice_kernel", Wrong())
    with pytest.raises(WrongResultError, match="are not the best rows"):
        probes.choose(4, values, "cpu", length=200, max_candidates=16)


@interpreted
def test_a_barrier_that_does_not_hold_is_noticed(backend, monkeypatch):
    assert probes.hold_barrier(3, "cpu") == {}
    launch = probes.barrier_kernel

    class Late:
        def __getitem__(self, grid):
            def run(slots, counter, stale, *rest, **options):
                launch[grid](slots, counter, stale, *rest, **options)
                stale += 2

            return run

    monkeypatch.setattr(probes, "barrier_kernel", Late())
    with pytest.raises(WrongResultError, match="2 of 3 slots"):
        probes.hold_barrier(3, "cpu")


@interpreted
def test_bits_are_compared(backend, monkeypatch):
    assert bits_stage.compare_tiles(torch.bfloat16, 64, 65, "cpu")["compared"] > 3
    assert bits_stage.compare_forms("mmr", torch.bfloat16, (20,), (16,), "cpu") == {"compared": 4}
    assert bits_stage.repeat("divprune", 2, "cpu") == {"repetitions": 2}
    of_kernel = bits_stage.similarities
    different = iter([0, 0, 1, 1])
    monkeypatch.setattr(bits_stage, "similarities", lambda x, config: of_kernel(x, config) + next(different))
    with pytest.raises(WrongResultError, match=r"4225 of 4225 bits differ in another configuration, 64 x 64 x 32"):
        bits_stage.compare_tiles(torch.bfloat16, 64, 65, "cpu")


@interpreted
def test_a_selection_is_judged(backend, monkeypatch):
    call = calls.small_calls(16, 8, 4)[0]
    assert calls.judged(call, "cpu") == {}
    monkeypatch.setattr(calls, "_picks", lambda given, select: [torch.tensor([0, 1, 2, 2])])
    with pytest.raises(WrongResultError, match="3 distinct picks instead of 4"):
        calls.judged(call, "cpu")


@compiled
def test_calls_are_compiled_ahead_without_a_device():
    call = next(call for call in calls.small_calls() if call.case.method == "dpp")
    assert ahead.compile_one(call, 90) == {"launches": len(calls.kernels_of(call))}


def test_configurations_are_tried_one_change_at_a_time():
    trials = list(tune_stage.trials())
    assert len({trial.name for trial in trials}) == len(trials)
    assert {trial.table for trial in trials} == {"SIMILARITY", "GREEDY", "LAZY_GREEDY", "CANDIDATE_COUNTS"}
    for trial in trials:
        own = next(each for each in trials if (each.table, each.count) == (trial.table, trial.count))
        changed = [
            field.name
            for field in dataclasses.fields(trial.row)
            if getattr(trial.row, field.name) != getattr(own.row, field.name)
        ]
        assert len(changed) == bool(trial.changes)


def test_a_trial_is_the_row_that_a_call_takes(monkeypatch):
    for table in ("SIMILARITY", "GREEDY", "LAZY_GREEDY", "CANDIDATE_COUNTS"):
        monkeypatch.setattr(configs, table, getattr(configs, table))
    for trial in tune_stage.trials():
        before = getattr(configs, trial.table)
        trial.use()
        taken = {
            "SIMILARITY": lambda count: configs.similarity_config(2, count, 4_096, 90, aligned=True),
            "GREEDY": lambda count: configs.greedy_config(1 << (count - 1).bit_length()),
            "LAZY_GREEDY": lambda count: configs.lazy_greedy_config(2, 90, aligned=True),
        }
        if trial.table == "CANDIDATE_COUNTS":
            assert configs.candidate_count(2, trial.count) == trial.row.candidates
        else:
            assert taken[trial.table](trial.count) is trial.row
        setattr(configs, trial.table, before)


def test_the_fastest_right_configuration_is_proposed(tmp_path):
    findings = Findings(tmp_path)
    similarity = [trial for trial in tune_stage.trials() if (trial.table, trial.count) == ("SIMILARITY", 576)]
    for number, trial in enumerate(similarity):
        outcome = "wrong" if number == 3 else "passed"
        findings.add(Finding("tune", trial.name, outcome, facts={"microseconds": 10.0 - number}))
    (proposed,) = tune_stage.proposals(findings)
    assert proposed.name == "proposed for SIMILARITY, N = 576"
    assert proposed.facts == {
        "row": similarity[2].changes,
        "microseconds": 8.0,
        "microseconds_of_the_table": 10.0,
    }


NCU = """==PROF== Connected to process 1
"ID","Kernel Name","Metric Name","Metric Unit","Metric Value"
"0","greedy_kernel","gpu__time_duration.sum","us","1,012.5"
"0","greedy_kernel","launch__registers_per_thread","register/thread","64"
"0","greedy_kernel","sm__throughput.avg.pct_of_peak_sustained_elapsed","%","n/a"
"0","greedy_kernel","another","%","5"
"""


def test_counters_are_read(tmp_path):
    report = tmp_path / "report.csv"
    assert profile_stage.metrics_of(report) == {}
    report.write_text(NCU)
    assert profile_stage.metrics_of(report) == {"nanoseconds": 1_012_500.0, "registers": 64.0}


def test_a_missing_profiler_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr(profile_stage.shutil, "which", lambda name: None)
    findings = Findings(tmp_path)
    profile_stage.run(findings, time.monotonic() + 1, "cuda")
    assert findings.of("profile")["ncu"].outcome == "skipped"


def test_the_benchmark_becomes_findings(tmp_path):
    rows = [
        row(median=0.5, correct=True, bound=0.25),
        row("loop", 5.0, correct=True),
        row(correct=False, note="pick 1: wrong", dtype=torch.bfloat16),
    ]
    rows[0].times, rows[0].ratio = Times(0.5, 0.4, 0.6, 3), 10.0
    (tmp_path / "cuda-x.json").write_text(json.dumps({"rows": [dataclasses.asdict(each) for each in rows]}))
    findings = Findings(tmp_path)
    speed_stage.add_rows(findings, tmp_path / "cuda-x.json")
    first, second = findings.of("speed").values()
    assert first.facts == {"microseconds": 500.0, "times_faster": 10.0, "share_of_bound": 0.5}
    assert (second.outcome, second.detail) == ("error", "pick 1: wrong")


def test_an_old_transformers_is_refused(tmp_path, monkeypatch):
    findings = Findings(tmp_path)
    monkeypatch.setattr(e2e_stage, "refused", lambda: "expected transformers >= 5.19, got 5.17.0")
    e2e_stage.run(findings, time.monotonic() + 1, "cuda")
    found = findings.of("e2e")["transformers"]
    assert (found.outcome, found.detail) == ("refused", "expected transformers >= 5.19, got 5.17.0")


def test_a_missing_transformers_is_refused(monkeypatch):
    monkeypatch.setattr(e2e_stage.importlib.util, "find_spec", lambda name: None)
    assert e2e_stage.refused() == "transformers is not installed"


def test_the_prefill_of_each_pruner_is_a_fact():
    rows = [{"pruner": "none", "prefill": {"median": 80.0}}, {"pruner": "DivPrune", "prefill": None}]
    assert e2e_stage.facts_of({"models": [{"rows": rows}]}) == {"prefill_ms, none": 80.0}
