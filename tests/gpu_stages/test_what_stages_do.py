"""What the stages do on a GPU, as far as it can be tried without one."""

import dataclasses
import itertools
import json
import re
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

pytest.importorskip("bench", reason="the benchmarks are only in the source tree")
pytest.importorskip("triton")

from bench.cases import cuda_cases
from bench.gpu import ahead, bits_stage, calls, contact_stage, e2e_stage, probes, profile_stage, speed_stage, tune_stage
from bench.gpu.findings import Finding, Findings
from bench.gpu.process import Ended, WrongResultError
from bench.gpu.stand_in import stand_in_device
from bench.times import Times
from tests.bench.common import row
from tests.conftest import INTERPRETED
from tokenprune_kernels import backends
from tokenprune_kernels.backends.triton import configs, kernels, recorded_calls
from tokenprune_kernels.methods import METHODS

interpreted = pytest.mark.parametrize(
    "backend", [pytest.param(("triton", "cpu"), id="triton", marks=pytest.mark.interpret)], indirect=True
)
compiled = pytest.mark.skipif(INTERPRETED, reason="interpreted kernels are not compiled")


def test_contact_launches_every_kernel_in_every_form():
    small = calls.small_calls()
    assert len({call.name for call in small}) == len(small)
    launched = {name for call in small for name in calls.kernels_of(call)}
    # The tests of a later stage launch what only a selection over several processes does.
    assert launched == {name for name in kernels.__all__ if name.endswith("_kernel")} - {"cross_similarity_kernel"}
    tried = {(call.case.method, call.form, call.case.tokens.layout) for call in small}
    for method in calls.METHODS_WITH_FORMS:
        assert {(method, form, layout) for form in calls.FORMS for layout in ("single", "packed")} <= tried
    # Without a form, calls are recorded, and made from the record in the end.
    assert {(method, None, layout) for method in METHODS for layout in ("single", "packed")} <= tried
    assert calls.CALLS > 3
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
    assert bits_stage.compare_forms("mmr", torch.bfloat16, 20, (16,), "cpu") == {"compared": 4}
    assert bits_stage.repeat("divprune", 2, "cpu") == {"repetitions": 2}
    of_kernel = bits_stage.similarities
    different = iter([0, 0, 1, 1])
    monkeypatch.setattr(bits_stage, "similarities", lambda x, config: of_kernel(x, config) + next(different))
    expected = r"4225 of 4225 differ, first at \(0, 0\): 0x.*, 0x.* in another configuration, 64 x 64 x 32"
    with pytest.raises(WrongResultError, match=expected):
        bits_stage.compare_tiles(torch.bfloat16, 64, 65, "cpu")


@pytest.fixture
def third_result_differs(monkeypatch):
    """An operator whose third result has another score at pick 1."""
    results = itertools.count(1)

    def select(x, k):
        scores = torch.zeros(k)
        scores[1] = next(results) == 3
        return torch.arange(k), scores

    monkeypatch.setattr(torch.ops.tokenprune, "divprune", SimpleNamespace(scores=select))


def test_a_form_that_differs_is_noticed(third_result_differs):
    with pytest.raises(WrongResultError, match=r"k = 9: scores: 1 of 9 differ, first at \(1,\): 0x3f800000, 0x0"):
        bits_stage.compare_forms("divprune", torch.bfloat16, 20, (16,), "cpu")


def test_a_repetition_that_differs_is_noticed(third_result_differs):
    with pytest.raises(WrongResultError, match=r"1 of 5 repetitions differ from the first call: \[1\]"):
        bits_stage.repeat("divprune", 5, "cpu")


def test_the_first_difference_is_shown():
    mine, theirs = torch.zeros(3, 4, dtype=torch.int32), torch.zeros(3, 4, dtype=torch.int32)
    mine[1, 2], mine[2, 0] = 16, 1
    assert bits_stage.differing(mine, theirs) == "2 of 12 differ, first at (1, 2): 0x10, 0x0"


def test_the_barrier_is_tried_before_the_bits():
    names = list(bits_stage.checks("cuda"))
    assert [name.partition(",")[0] for name in names[:2]] == ["grid barrier", "1"]
    assert len(names) == 1 + 3 + 3 * (len(bits_stage.DEPTHS) + 2 * len(bits_stage.COUNTS))


@interpreted
def test_a_selection_is_judged(backend, monkeypatch):
    call = calls.small_calls(16, 8, 4)[0]
    assert calls.judged(call, "cpu") == {}
    right, made = calls._picks, []

    def picks(given, select):
        made.append(right(given, select) if len(made) != 2 else [torch.tensor([0, 1, 2, 3])])
        return made[-1]

    monkeypatch.setattr(calls, "_picks", picks)
    with pytest.raises(WrongResultError, match="call 3 picks otherwise than the first one"):
        calls.judged(call, "cpu")
    monkeypatch.setattr(calls, "_picks", lambda given, select: [torch.tensor([0, 1, 2, 2])])
    with pytest.raises(WrongResultError, match="3 distinct picks instead of 4"):
        calls.judged(call, "cpu")


@compiled
def test_calls_are_compiled_ahead_without_a_device():
    call = next(call for call in calls.small_calls() if call.case.method == "dpp")
    assert ahead.compile_one(call, 90) == {"launches": len(calls.kernels_of(call))}
    facts = calls.kernel_facts()
    assert set(calls.kernels_of(call)) <= set(facts)
    assert re.fullmatch(r"PTX [0-9a-f]{12}, \d+ registers, \d+ spills, \d+ B shared", facts["dpp_kernel"])


@compiled
def test_contact_makes_calls_from_records(monkeypatch):
    """Counted by a stand-in for the driver, whose results are wrong."""
    made = []
    monkeypatch.setattr(recorded_calls.RecordedCall, "__call__", lambda self, inputs: made.append(self) or [inputs[0]])
    monkeypatch.setattr(calls, "_picks", lambda given, select: [select(given.x)[:0]])
    monkeypatch.setattr(backends.triton, "unavailable", lambda device: None)
    call = next(call for call in calls.small_calls() if call.case.method == "dpp")
    with stand_in_device(), pytest.raises(WrongResultError):
        calls.judged(call, "cpu")
    assert len(made) == calls.CALLS - 2


@compiled
def test_what_contact_tries_first_is_compiled_for_a_device():
    with stand_in_device() as driver:
        for warps in contact_stage.WARPS:
            with pytest.raises(WrongResultError):  # nothing computes
                probes.choose(warps, probes.FEW_TIES, "cpu")
        probes.hold_barrier(3, "cpu")
    assert [launch.kernel for launch in driver.launches] == ["choice_kernel", "choice_kernel", "barrier_kernel"]


@compiled
def test_what_is_not_compiled_ahead_is_said(monkeypatch):
    def fail(call, architecture):
        raise ValueError("no")

    monkeypatch.setattr(ahead, "compile_one", fail)
    monkeypatch.setattr(ahead, "compile_driver", lambda: None)
    call = calls.small_calls()[0]
    assert ahead.compile_all([call], 90)[1] == {call.name: "error, ValueError: no"}
    assert list(ahead.compile_all([call], 90, deadline=0.0)[1]) == ["driver", call.name]


def test_the_first_cases_of_the_benchmark_are_compiled_ahead():
    assert [call.case for call in calls.main_calls()] == cuda_cases()[: calls.MAIN_CASES]


def test_checks_are_made_without_the_device(monkeypatch):
    """A process that has used it cannot be forked."""

    def used(*given):
        raise AssertionError("the device was used")

    for name in ("is_available", "device_count", "current_device", "get_device_properties", "_lazy_init"):
        monkeypatch.setattr(torch.cuda, name, used)
    assert contact_stage.checks("cuda")
    assert bits_stage.checks("cuda")
    assert list(tune_stage.trials())
    assert calls.main_calls()


def test_a_trial_that_hangs_alone_lets_the_others_be_timed(tmp_path):
    """It keeps the others waiting for ALONE_SECONDS, not for the limit of a check."""
    lock = tmp_path / "lock"

    def hang():
        with tune_stage.alone(lock, 1):
            time.sleep(60)

    def measure():
        time.sleep(0.5)
        with tune_stage.alone(lock, 1):
            return {}

    findings = Findings(tmp_path)
    contact_stage.run_checks(findings, "tune", {"a": hang, "b": measure}, time.monotonic() + 30, 10.0)
    found = findings.of("tune")
    assert (found["a"].outcome, found["a"].detail) == ("crashed", "SIGALRM")
    assert found["b"].outcome == "passed"
    assert found["b"].seconds < 5


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
    assert profile_stage.metrics_of(report) == {"greedy_kernel": {"nanoseconds": 1_012_500.0, "registers": 64.0}}


def test_each_kernel_of_a_call_is_profiled_in_one_process(tmp_path, monkeypatch):
    commands = []

    def run_command(command, seconds, log):
        commands.append((command, seconds))
        report = Path(command[command.index("--log-file") + 1])
        report.write_text(NCU)
        return Ended("passed", 3.0)

    monkeypatch.setattr(profile_stage, "profiler", lambda: "ncu")
    monkeypatch.setattr(profile_stage, "run_command", run_command)
    findings = Findings(tmp_path)
    profile_stage.run(findings, time.monotonic() + 40, "cuda")
    assert len(commands) == len(profile_stage.PROFILED)
    assert commands[0][1] == pytest.approx(20, abs=1)
    found = findings.of("profile")
    assert found["greedy_kernel"].facts == {"N": 2_880, "nanoseconds": 1_012_500.0, "registers": 64.0}
    assert (found["outlier_kernel"].outcome, found["outlier_kernel"].detail) == ("error", "ncu has no counters of it")
    launched = {name for call in calls.small_calls() for name in calls.kernels_of(call)}
    assert {kernel for _, _, kernels in profile_stage.PROFILED for kernel in kernels} <= launched


def test_a_missing_profiler_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr(profile_stage.shutil, "which", lambda name, path: None)
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


BENCHMARK = """
import json, os, pathlib, signal, sys, time
folder = pathlib.Path(sys.argv[sys.argv.index("--results") + 1])
path, cases = folder / "cuda-x.json", {cases!r}
result = json.loads(path.read_text()) if "--resume" in sys.argv else {{"rows": [], "begun": []}}
def save():
    path.write_text(json.dumps(result))
for name, ends in cases:
    if name not in result["begun"]:
        result["begun"].append(name)
        save()
        exec(ends)
        result["rows"].append({row} | {{"method": name}})
        save()
del result["begun"]
save()
"""
CRASH, HANG = "os.kill(os.getpid(), signal.SIGALRM)", "time.sleep(60)"


def run_benchmark(folder, seconds, cases):
    made = row(median=0.5, correct=True)
    made.times = Times(0.5, 0.4, 0.6, 3)
    findings = Findings(folder)
    code = BENCHMARK.format(cases=cases, row=dataclasses.asdict(made))
    speed_stage.measure(findings, time.monotonic() + seconds, [sys.executable, "-c", code])
    return {name: (each.outcome, each.detail) for name, each in findings.of("speed").items()}


def test_the_benchmark_goes_on_behind_a_case_that_ends_it(tmp_path):
    found = run_benchmark(tmp_path, 60, [("first", ""), ("second", CRASH), ("third", "1 / 0"), ("fourth", "")])
    assert found.pop("benchmark, second") == ("crashed", "SIGALRM")
    assert found.pop("benchmark, third") == ("error", "exit code 1")
    assert {(name.split()[0], *each) for name, each in found.items()} == {
        ("first", "measured", ""),
        ("fourth", "measured", ""),
    }


@pytest.mark.slow
def test_what_the_benchmark_measured_before_its_time_was_over_is_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(speed_stage, "LEAST_SECONDS", 1.0)
    found = run_benchmark(tmp_path, 6.0, [("first", ""), ("second", HANG), ("third", "")])
    assert found.pop("benchmark, second") == ("not started", "killed after 5 s")
    assert [name.split()[0] for name in found] == ["first"]


def test_a_benchmark_that_does_not_begin_is_an_error(tmp_path):
    findings = Findings(tmp_path)
    speed_stage.measure(findings, time.monotonic() + 30, [sys.executable, "-c", "1 / 0"])
    assert findings.of("speed")["benchmark"].detail == "exit code 1"


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
