"""The CPU benchmark's own logic, on small inputs."""

import dataclasses
import itertools
import json
import subprocess

import pytest
import torch

pytest.importorskip("bench.cpu.inputs", reason="needs the source tree and scikit-image")

from bench import gate
from bench.budget import Budget
from bench.cpu import bound, cases, compiled, implementations, inputs, measure, memory, rates, record, table
from bench.cpu.cases import Case
from bench.cpu.implementations import OPERATOR
from bench.cpu.rows import Row, compare
from bench.times import Times

SMALL = inputs.clustered(40)
BATCH = dataclasses.replace(SMALL, items=2, make=lambda: torch.stack([SMALL.make(), SMALL.make().flip(0)]))
METHODS = ("divprune", "idpruner", "mmr", "dpp")


def timer(select, rounds):
    for _ in range(3):
        select()
    return [0.001, 0.002, 0.006]


def row(implementation=OPERATOR.name, median=None, dtype=torch.float32, tokens=SMALL, **fields):
    made = Row.on(Case(tokens, "divprune", dtype), implementation)
    made.times = None if median is None else Times(median, median / 2, 2 * median, 5)
    return dataclasses.replace(made, **fields)


def result(*rows, extra_memory=(), not_started=()):
    return {
        "machine": {
            "processor": "Some CPU",
            "threads": 2,
            "isa": "avx2",
            "depth": 4_096,
            "product_gigaflops": {"float32": 390.0},
            "versions": {"torch": "1.0"},
        },
        "rows": [dataclasses.asdict(each) for each in rows],
        "memory": {"count": 16, "depth": 8, "k": 2, "similarities_megabytes": 1_074.0, "rows": list(extra_memory)},
        "not_started": list(not_started),
    }


@pytest.mark.parametrize("tokens", [SMALL, BATCH], ids=["item", "batch"])
@pytest.mark.parametrize("method", METHODS)
def test_the_gate_rejects_a_wrong_selection(tokens, method):
    task = cases.task(Case(tokens, method, torch.float32))
    right = implementations.operator(task)()
    outside = right.clone()
    outside[..., -1] = 40
    for picks, reason in (
        (right, ""),
        (right.flip(-1), "pick "),
        (right[..., :1].expand_as(right), "1 distinct picks instead of 4"),
        (outside, "3 distinct picks instead of 4"),
        (right[..., :3], "picks of shape"),
    ):
        found = gate.mistake(method, task.x, picks, task.k, task.weight, cases.LAM)
        assert found.startswith(reason)
        assert bool(found) == bool(reason)


@pytest.mark.parametrize("tokens", [SMALL, BATCH], ids=["item", "batch"])
@pytest.mark.parametrize("dtype", cases.DTYPES, ids=str)
@pytest.mark.parametrize("method", ["divprune", "idpruner", "dpp"])
def test_every_implementation_is_judged_and_timed(method, dtype, tokens):
    case = Case(tokens, method, dtype)
    task = cases.task(case)
    for implementation in implementations.for_case(case):
        if implementation.left_out(case):
            continue
        made = Row.on(case, implementation.name)
        measured = measure.measure(made, task, implementation.prepare(task), None, timer)
        assert measured.picks.shape == (*task.x.shape[:-2], 4)
        assert made.times == Times(2.0, 1.0, 6.0, 3)
        if implementation is OPERATOR or implementation.batches or "loop in float32" in implementation.name:
            assert made.correct is True
            assert made.note == ""


@pytest.mark.parametrize(
    ("name", "method"),
    [
        ("torch-quickfps", "divprune"),
        ("pyversity", "idpruner"),
        ("pyversity", "mmr"),
        ("pyversity", "dpp"),
        ("langchain-core", "mmr"),
    ],
)
def test_packages_pick_as_the_operator(name, method):
    implementation = next(each for each in implementations.PEERS if each.name == name and method in each.methods)
    pytest.importorskip(implementation.module)
    # All similarities are positive here: pyversity takes negative ones for 0.
    tokens = dataclasses.replace(SMALL, make=lambda: SMALL.make() + 1.0, name="positive")
    task = cases.task(Case(tokens, method, torch.float32))
    assert torch.equal(implementation.prepare(task)(), implementations.operator(task)())


def test_a_wrong_operator_is_not_timed():
    task = cases.task(Case(SMALL, "divprune", torch.float32))
    right = implementations.operator(task)()
    for implementation, timed in ((OPERATOR.name, False), ("some loop", True)):
        made = row(implementation)
        measure.measure(made, task, lambda: right.flip(-1), right, timer)
        assert made.correct is False
        assert made.note.startswith("pick ")
        assert (made.times is not None) == timed


def test_every_timed_call_must_pick_as_the_checked_one():
    task = cases.task(Case(SMALL, "divprune", torch.float32))
    right = implementations.operator(task)()
    calls = []

    def changing():
        calls.append(1)
        return right if len(calls) < 4 else right.flip(-1)

    made = row()
    measure.measure(made, task, changing, None, timer)
    assert made.correct is False
    assert made.times is None
    assert made.note == "the timed calls picked otherwise than the checked one"


def test_an_operator_is_timed_again_after_its_peers(monkeypatch):
    monkeypatch.setattr(measure, "perf_counter", itertools.count(step=0.001).__next__)
    task = cases.task(Case(SMALL, "divprune", torch.float32))
    made, select = row(), implementations.operator(task)
    measured = measure.measure(made, task, select, None, timer)
    measure.measure_again(measured, select)
    assert made.times.samples == len(measured.seconds) == 3 + measure.MOST_ROUNDS
    assert made.times.most == 6.0
    measure.measure_again(measured, lambda: select().flip(-1))
    assert made.correct is False
    assert made.times is None


def test_picks_equal_to_accepted_ones_need_no_replay(monkeypatch):
    task = cases.task(Case(SMALL, "divprune", torch.float32))
    right = implementations.operator(task)()
    monkeypatch.setattr(gate, "mistake", lambda *_: "replayed")
    for accepted, note in ((right, ""), (right.flip(0), "replayed"), (None, "replayed")):
        made = row()
        measure.judge(made, task, right, accepted)
        assert made.note == note


@pytest.mark.parametrize(("seconds", "rounds"), [(0.0, 50), (1e-3, 50), (0.1, 10), (5.0, 3)])
def test_the_number_of_calls_is_bounded(seconds, rounds):
    assert measure.rounds_for(seconds) == rounds


def test_what_is_left_out_says_why():
    implementation = dataclasses.replace(OPERATOR, most_rows=39)
    assert implementation.left_out(Case(SMALL, "divprune", torch.float32)) == "takes seconds above N = 39"
    implementation = dataclasses.replace(OPERATOR, most_rows=40, module="no_such_module")
    assert implementation.left_out(Case(SMALL, "divprune", torch.float32)) == "is not installed"
    assert OPERATOR.left_out(Case(SMALL, "divprune", torch.float32)) == ""


def test_every_case_has_the_operator_first_and_a_peer():
    everything = cases.cases()
    assert len(everything) == len(set(everything)) == len({str(case) for case in everything})
    assert set(cases.quick_cases()) <= set(everything)
    for case in everything:
        operator, *peers = implementations.for_case(case)
        assert operator is OPERATOR
        assert any(peer.module is None and not peer.left_out(case) for peer in peers) or case.method == "mmr"


@pytest.mark.parametrize(
    ("make", "argument", "shape"),
    [
        (inputs.photograph, ("motorcycle", 4), (16,)),
        (inputs.video, (3,), (432,)),
        (inputs.crops, (), (2, 36)),
        (inputs.clustered, (70,), (70,)),
        (inputs.noise, (70,), (70,)),
        (inputs.duplicates, (70,), (70,)),
    ],
)
def test_inputs_are_finite_seeded_and_of_their_size(make, argument, shape, monkeypatch):
    monkeypatch.setattr(inputs, "BATCH_ITEMS", 2)
    monkeypatch.setattr(inputs, "BATCH_SIDE", 6)
    tokens = make(*argument)
    x = tokens.make()
    assert x.shape == (*shape, inputs.DIMENSIONS)
    assert x.dtype == torch.float32
    assert x.isfinite().all()
    assert shape == (*([] if tokens.items is None else [tokens.items]), tokens.count)
    assert torch.equal(x, tokens.make())
    assert tokens.k < len(x.flatten(0, -2).unique(dim=0))


def test_the_fastest_peers_are_those_of_the_same_case():
    rows = [
        row(median=10.0, correct=True),
        row("slow", 50.0, correct=True),
        row("fast", 30.0, correct=True),
        row("wrong", 20.0, correct=False),
        row("left out"),
        row("of another dtype", 1.0, torch.bfloat16, correct=True),
        row("on other tokens", 1.0, tokens=inputs.noise(40), correct=True),
    ]
    compare(rows)
    assert (rows[0].fastest_correct_peer, rows[0].ratio) == ("fast", 3.0)
    assert (rows[0].fastest_peer, rows[0].ratio_to_fastest_peer) == ("wrong", 2.0)
    assert rows[1].fastest_peer is None
    alone = [row(median=10.0, correct=True), rows[3]]
    compare(alone)
    assert (alone[0].ratio, alone[0].ratio_to_fastest_peer) == (None, 2.0)


def test_the_table_shows_the_photograph_that_gains_least():
    first, second = (dataclasses.replace(SMALL, kind="photograph", name=name) for name in ("one", "two"))
    rows = [
        row(median=10.0, tokens=first, correct=True, bound=2.5),
        row("loop", 30.0, tokens=first, correct=True),
        row("wrong loop", 20.0, tokens=first, correct=False, note="pick 3: row 5 | row 9"),
        row(median=10.0, tokens=second, correct=True, bound=2.0),
        row("loop", 50.0, tokens=second, correct=True),
        row(tokens=inputs.noise(40), correct=False, note="pick 1: wrong"),
        row("package", tokens=first, note="is not installed"),
    ]
    compare(rows)
    extra = [{"method": "divprune", "dtype": "float32", "megabytes": 12.34, "note": ""}]
    written = json.loads(
        json.dumps(result(*rows, extra_memory=extra, not_started=["loop on tokens", "other loop on tokens"]))
    )
    lines = table.summary(written).splitlines()
    assert lines[2] == (
        "| `divprune` | photograph, worst of 2 | 40, k = 4 | float32 | 10.0 (5.00 to 20.0) | 25 % "
        "| 30.0 (loop) | 3.00 | 20.0 (wrong loop) | 2.00 |"
    )
    assert lines[3].startswith("| `divprune` | Gaussian noise | 40, k = 4 | float32 | none: pick 1: wrong | - |")
    assert {line.count("|") for line in lines[:4]} == {11}
    assert "`divprune` float32 12.3 MB; a float32 similarity matrix takes 1,074 MB" in lines[5]
    assert "Some CPU, 2 threads, `avx2`" in lines[7]
    assert lines[8] == "Left out: package (is not installed)."
    assert lines[9] == "Not started, for want of time: loop on tokens, and 1 more."
    every = table.details(written).splitlines()
    assert len(every) == 2 + len(rows)
    assert {line.count("|") for line in every} == {12}


@pytest.mark.parametrize("method", METHODS)
def test_the_pairs_of_the_bound_are_at_most_all_pairs(method):
    for count in (1, 2, 17, 576):
        by_k = [bound.pairs(method, count, k) for k in range(count + 1)]
        assert by_k == sorted(by_k)
        assert by_k[0] == 0
        assert by_k[-1] == count * (count - 1) // 2
        assert by_k[1] == (count - 1 if method == "divprune" else 0)


def test_the_bound_is_the_slower_of_reading_and_multiplying():
    rates = bound.Rates(operations_per_second=1e9, bytes_per_second=1e9)
    assert bound.bound("idpruner", 1_000, 2, 64, 4, rates) == pytest.approx(1_000 * 64 * 4 / 1e9)
    assert bound.bound("divprune", 100, 100, 64, 2, rates) == pytest.approx(100 * 99 * 64 / 1e9)
    assert bound.bound("divprune", 100, 100, 64, 2, rates, items=3) == pytest.approx(3 * 100 * 99 * 64 / 1e9)


def test_rates_are_measured(monkeypatch):
    monkeypatch.setattr(rates, "EDGE", 32)
    assert rates.product_rate.__wrapped__(torch.bfloat16) > 0
    assert rates.read_rate(torch.ones(8, 16, dtype=torch.bfloat16)) > 0


def test_a_loop_that_is_not_compiled_as_a_whole_says_so(monkeypatch):
    compile_loop = torch.compile
    monkeypatch.setattr(torch, "compile", lambda loop, dynamic: compile_loop(loop, dynamic=dynamic, backend="eager"))
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    for method in compiled.LOOPS:
        answer = compiled.run(Case(SMALL, method, torch.float32))
        assert len(answer["picks"]) == 4
        assert len(answer["seconds"]) == compiled.ROUNDS
        assert answer["note"].startswith("not compiled as a whole: ")
    torch._dynamo.reset()


def test_a_compiled_loop_is_judged(monkeypatch):
    case = Case(SMALL, "divprune", torch.float32)
    right = implementations.operator(cases.task(case))().tolist()
    for picks, correct in ((right, True), (right[::-1], False)):
        answer = json.dumps({"picks": picks, "seconds": [0.25], "note": "noted"})
        monkeypatch.setattr(compiled, "output_within", lambda *_, answer=answer: f"noise\n{answer}\n")
        made = compiled.compiled_row(case, 1.0)
        assert made.correct is correct
        assert made.times.median == 250.0
        assert (made.note == "noted") == correct


def test_extra_memory_is_that_of_the_call(monkeypatch):
    monkeypatch.setattr(memory, "COUNT", 200)
    monkeypatch.setattr(memory, "DEPTH", 64)
    monkeypatch.setattr(memory, "K", 20)
    assert 0 <= memory.run("idpruner", torch.float32) < 50
    monkeypatch.setattr(memory, "output_within", lambda *_: "12.5\n")
    assert memory.extra_megabytes("divprune", "float32") == 12.5


def test_memory_of_a_process_that_fails_is_no_number(monkeypatch):
    def fail(*_):
        raise subprocess.SubprocessError("exit code 1, stopped")

    monkeypatch.setattr(memory, "output_within", fail)
    with pytest.raises(subprocess.SubprocessError):
        memory.extra_megabytes("divprune", "float32")


def test_a_run_is_whole_when_it_came_to_every_case():
    first, second = (Case(SMALL, method, torch.float32) for method in ("divprune", "idpruner"))
    made = record.Record(Budget(1e9), {first, second})
    made.reached.add(first)
    assert not made.whole
    made.reached.add(second)
    assert made.whole


def test_nothing_starts_once_the_budget_is_spent():
    now = iter((0.0, 1.0, 9.0))
    made = record.Record(Budget(8.0, lambda: next(now)), set())
    assert [made.start(name) for name in ("first", "second")] == [True, False]
    assert made.not_started == ["second"]


def test_a_result_is_published(tmp_path, monkeypatch):
    monkeypatch.setattr(record, "product_rate", lambda dtype: 390e9)
    readme = tmp_path / "README.md"
    readme.write_text(f"before\n{table.BEGIN}\nold\n{table.END}\nafter\n")
    made = record.Record(Budget(1e9), set())
    made.rows.append(row(median=12.5, correct=True))
    measured = made.result()
    measured["machine"]["processor"] = "Some CPU @ 2 GHz"
    record.publish(measured, tmp_path)
    assert json.loads((tmp_path / "bench" / "results" / "cpu-some-cpu-2-ghz.json").read_text()) == measured
    assert readme.read_text() == f"before\n{table.BEGIN}\n{table.summary(measured)}\n{table.END}\nafter\n"
    assert str(tmp_path) not in json.dumps(measured)
