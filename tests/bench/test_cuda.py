"""What the benchmark knows of a CUDA device, on the CPU."""

import dataclasses
import json
import time

import pytest
import torch

pytest.importorskip("bench", reason="the benchmarks are only in the source tree")
pytest.importorskip("triton")

from bench import inputs, measure, peers, roofline, run
from bench.budget import Budget
from bench.cases import Case, cuda_cases, task
from bench.devices import cuda, stages
from bench.row import compare
from bench.times import Times
from tests.bench.common import TINY_BATCH, TINY_PACKED, row

SMALL = inputs.clustered(12, ks=(3,), depth=16, clusters=5)
INTERPRETED = pytest.mark.parametrize(
    "backend", [pytest.param(("triton", "cpu"), id="triton", marks=pytest.mark.interpret)], indirect=True
)


class Host(cuda.Cuda):
    """The processor's clock, and captures that run again."""

    type = "cpu"

    def samples(self, run, count):
        samples = []
        for _ in range(count):
            start = time.perf_counter()
            run()
            samples.append(1e3 * (time.perf_counter() - start))
        return samples

    def capture(self, run):
        run()
        return run

    def synchronize(self):
        pass

    def cache_bytes(self):
        return 1_000

    def modelled(self):
        return roofline.H100


@pytest.fixture(autouse=True)
def brief(monkeypatch):
    monkeypatch.setattr(cuda, "WARM_UP_SECONDS", 0.0)
    monkeypatch.setattr(cuda, "SAMPLING_SECONDS", 0.0)


def result(*rows, not_started=()):
    return {
        "machine": dict.fromkeys(("processor", "driver", "cuda", "torch", "triton"), "1.0"),
        "ceilings": {
            "bfloat16_product_teraflops": 790.0,
            "copy_gigabytes_per_second": 4_300.0,
            "clocks_megahertz": {"multiprocessors": "1980"},
        },
        "rows": [dataclasses.asdict(each) for each in rows],
        "not_started": list(not_started),
    }


@pytest.mark.parametrize(
    ("tensor", "cache", "copies"), [(10, 100, 21), (100, 100, 3), (150, 100, 2), (200, 100, 2), (10_000, 100, 2)]
)
def test_copies_exceed_the_cache_twice(tensor, cache, copies):
    assert cuda.copies_for(tensor, cache) == copies
    assert copies * tensor > 2 * cache


def test_copies_are_kept_for_the_next_call():
    device, x = Host(), torch.ones(100)
    copies = device.copies(x)
    assert copies[0] is x
    assert device.copies(x) is copies
    assert len({copy.data_ptr() for copy in copies}) == len(copies) == cuda.copies_for(400, 1_000)
    assert device.copies(torch.ones(100)) is not copies


def test_a_time_is_that_of_one_call(monkeypatch):
    device, x = Host(), torch.ones(100)
    monkeypatch.setattr(device, "samples", lambda run, count: [60.0] * count)
    results, milliseconds = device.time(lambda x: x, x, cuda.GRAPH)
    copies = device.copies(x)
    assert milliseconds == [60.0 / len(copies)] * cuda.LEAST_SAMPLES
    assert all(each is copy for each, copy in zip(results, [x, *copies], strict=True))


def test_warming_up_and_sampling_are_bounded(monkeypatch):
    device, runs = Host(), []
    monkeypatch.setattr(device, "samples", lambda run, count: [float(count)] * count)
    assert len(device.sampled(lambda: runs.append(1), 0.0)) == cuda.LEAST_SAMPLES
    assert len(runs) == 1
    monkeypatch.setattr(cuda, "WARM_UP_SECONDS", 0.02)
    assert len(device.sampled(lambda: runs.append(1), 1e9)) == cuda.MOST_SAMPLES
    monkeypatch.setattr(cuda, "WARM_UP_SECONDS", 1e9)
    runs.clear()
    device.sampled(lambda: runs.append(1), 0.0)
    assert len(runs) == 10_000


@pytest.mark.parametrize("tokens", [SMALL, TINY_BATCH, TINY_PACKED], ids=lambda tokens: tokens.layout)
@pytest.mark.parametrize("method", ["divprune", "idpruner", "dpp"])
def test_a_case_has_a_row_for_every_implementation(tokens, method):
    made = measure.Benchmark(Host(), Budget(1e9))
    case = Case(tokens, method, torch.bfloat16)
    made.measure(case)
    compare(made.rows)
    rows = {each.name: each for each in made.rows}
    assert len(rows) == len(made.rows)
    operator = rows["tokenprune, CUDA graph"]
    assert operator.correct is True
    assert operator.times.median > 0
    applying = [peer for peer in peers.CUDA_PEERS if peer.applies(case) and not peer.compiled]
    for peer in applying:
        if peer.left_out(case):
            assert rows[f"{peer.name}, {cuda.EAGER}"].note == "is not installed"
            continue
        for how in (cuda.GRAPH,) if peer is peers.PRODUCT else (cuda.EAGER, cuda.GRAPH):
            each = rows[f"{peer.name}, {how}"]
            assert each.times.median > 0
            assert (each.correct is None) == (peer is peers.PRODUCT)
    assert len(rows) == 1 + sum(1 if peer is peers.PRODUCT else 2 for peer in applying)
    if method == "divprune":
        assert rows["running-minimum loop in float32, eager"].correct is True
        assert operator.ratio > 0
    assert "x @ x.T" not in (operator.fastest_peer or "")


@INTERPRETED
@pytest.mark.parametrize("tokens", [SMALL, TINY_PACKED], ids=lambda tokens: tokens.layout)
@pytest.mark.parametrize("form", ["materialised", "lazy_greedy"])
@pytest.mark.parametrize("method", ["divprune", "idpruner"])
def test_a_stage_leaves_out_the_launches_after_it(backend, monkeypatch, tokens, form, method):
    from tokenprune_kernels.backends.triton import runtime

    given = task(Case(tokens, method, torch.bfloat16))
    call = peers.operator(given)
    blocks = stages.OUTLIERS if method == "divprune" else stages.CANDIDATES
    names, launch = [], runtime.launch

    class Named:
        """Stands for a kernel. Its launches are recorded, and nothing runs."""

        def __init__(self, kernel):
            self.__name__ = kernel.__name__

        def __getitem__(self, grid):
            return lambda **given: names.append(self.__name__)

    monkeypatch.setattr(runtime, "launch", lambda kernel, *given, **options: launch(Named(kernel), *given, **options))
    with runtime.settings(form=form):
        found = stages.stages_of(given)
        assert found == (stages.MATERIALISED if form == "materialised" else blocks)
        expected = list(found.values())
        for last in expected:
            names.clear()
            with stages.launches_up_to(last, found):
                call(given.x)
            packed = tokens.layout == inputs.PACKED
            assert names == ["plan_kernel"] * packed + expected[: expected.index(last) + 1]


@INTERPRETED
@pytest.mark.parametrize(
    ("method", "form"),
    [
        ("divprune", "materialised"),
        ("divprune", "lazy_greedy"),
        ("dpp", None),
    ],
)
def test_a_row_has_the_stages_of_the_form_that_ran(backend, monkeypatch, method, form):
    from tokenprune_kernels.backends.triton import runtime

    monkeypatch.setattr(cuda, "LEAST_SAMPLES", 1)
    monkeypatch.setattr(Host, "copies", lambda self, x: [x])
    made = measure.Benchmark(Host(), Budget(1e9))
    with runtime.settings(form=form):
        made.measure_one(Case(SMALL, method, torch.bfloat16), peers.OPERATOR, cuda.GRAPH, {})
    (only,) = made.rows
    assert only.correct is True
    assert only.note == ""
    assert sum(only.details["stages"].values()) == pytest.approx(only.times.median)
    if method == "dpp":
        assert list(only.details["stages"]) == ["row norms", "picks"]
        assert only.bound is None
        return
    assert list(only.details["stages"]) == list(only.details["predicted_stages"])
    assert only.bound > 0
    assert only.details.get("teraflops", 1.0) > 0


def test_a_time_stays_where_its_stages_cannot_be_told_apart(monkeypatch):
    monkeypatch.setattr(cuda, "stages_of", lambda given: stages.MATERIALISED)
    monkeypatch.setattr(cuda, "launches_up_to", lambda last, stages: 1 / 0)
    made = measure.Benchmark(Host(), Budget(1e9))
    made.measure_one(Case(SMALL, "divprune", torch.bfloat16), peers.OPERATOR, cuda.GRAPH, {})
    assert made.rows[0].times is not None
    assert made.rows[0].note == "no stages: ZeroDivisionError: division by zero"
    assert made.rows[0].details == {}


@pytest.mark.parametrize("method", ["divprune", "idpruner"])
def test_no_prediction_is_below_the_bound_of_its_form(method):
    for case in cuda_cases():
        tokens, size = case.tokens, case.dtype.itemsize
        for lazy_greedy in (False, True):
            predicted = cuda.predicted_stages(method, tokens, size, lazy_greedy)
            assert predicted is None or 1e3 * sum(predicted.values()) > cuda.bound(tokens, size, lazy_greedy)
            assert min(cuda.least_work(tokens, size, lazy_greedy)) > 0


def test_stages_are_predicted_where_they_are_modelled():
    batch = inputs.clustered(*(576,) * 64, ks=(58,) * 64, layout=inputs.BATCH)
    predicted = cuda.predicted_stages("mmr", batch, 2, lazy_greedy=False)
    for stage, microseconds in roofline.materialised_stages(576, 58, 4_096, items=64).items():
        assert predicted[stage] == pytest.approx(1e-3 * microseconds)
    assert cuda.predicted_stages("mmr", batch, 2, lazy_greedy=True) is None
    assert cuda.predicted_stages("mmr", TINY_PACKED, 2, lazy_greedy=False) is None


def test_the_table_is_in_microseconds():
    rows = [
        row(
            median=0.0125,
            correct=True,
            how=cuda.GRAPH,
            bound=0.005,
            details={"stages": {"row norms": 0.001, "greedy loop": 0.006}, "teraflops": 12.5},
        ),
        row("published DivPrune loop", 0.7, correct=False, how=cuda.EAGER, note="pick 3: row 5 | row 9"),
        row(peers.PRODUCT.name, 0.004, how=cuda.GRAPH),
        row("running-minimum loop in float32", 2.5, correct=True, how=cuda.EAGER),
    ]
    compare(rows)
    lines = cuda.table(json.loads(json.dumps(result(*rows, not_started=["a"])))).splitlines()
    assert lines[2] == (
        "| `divprune` | clustered | 40, k = 4 | float32 | 12.5 (6.25 to 25.0) | 40 % "
        "| 2,500 (running-minimum loop in float32, eager) | 200 | 700 (published DivPrune loop, eager) | 56.0 "
        "| row norms 1.00 + greedy loop 6.00 | - | 12.5 | - | 4.00 |"
    )
    assert {line.count("|") for line in lines[:3]} == {16}
    assert "1980 MHz" in lines[4]
    assert lines[5] == "Not started, for want of time: a."
    unmeasured = result(row(correct=False, note="pick 1: wrong", how=cuda.GRAPH))
    assert "none: pick 1: wrong" in cuda.table(unmeasured)


def test_without_a_device_nothing_is_measured(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert run.main("cuda", []) == 2
    assert capsys.readouterr().err == "bench cuda: expected a CUDA device, got none\n"


def test_times_are_medians():
    assert Times.of([5.0, 1.0, 3.0]) == Times(3.0, 1.0, 5.0, 3)
