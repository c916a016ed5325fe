"""How an implementation is judged, timed and compared, on small inputs."""

import dataclasses
import itertools
import json
import subprocess
import sys

import pytest
import torch

pytest.importorskip("bench", reason="the benchmarks are only in the source tree")

from bench import inputs, judge, measure, peers
from bench.budget import Budget
from bench.cases import DTYPES, Case, task
from bench.devices import cpu
from bench.peers import OPERATOR
from bench.row import compare
from bench.times import Times
from tests.bench.common import SMALL, TINY_BATCH, TINY_PACKED, Clock, row
from tokenprune_kernels.methods import METHODS

LAYOUTS = pytest.mark.parametrize("tokens", [SMALL, TINY_BATCH, TINY_PACKED], ids=lambda tokens: tokens.layout)


def benchmark(device=None, seconds=1e9, clock=None):
    budget = Budget(seconds, clock) if clock else Budget(seconds)
    return measure.Benchmark(device or Clock(), budget)


def wrong(implementation, prepare):
    return dataclasses.replace(implementation, prepare=prepare)


@LAYOUTS
@pytest.mark.parametrize("method", METHODS)
def test_a_wrong_selection_is_found(tokens, method):
    given = task(Case(tokens, method, torch.float32))
    picks = tokens.picks(peers.operator(given)(given.x))
    item = len(picks) - 1
    prefix = "" if len(picks) == 1 else f"item {item}: "
    k = tokens.ks[item]

    def found(last):
        return judge.mistake_of_items(method, tokens, given.x, [*picks[:-1], last], given.weight)

    outside = picks[-1].clone()
    outside[-1] = tokens.counts[item]
    assert found(picks[-1]) == ""
    assert found(picks[-1].flip(0)).startswith(f"{prefix}pick ")
    assert found(picks[-1][:1].expand(k)) == f"{prefix}1 distinct picks instead of {k}"
    assert found(outside) == f"{prefix}{k - 1} distinct picks instead of {k}"
    assert found(picks[-1][:-1]) == f"{prefix}picks of shape [{k - 1}] instead of [{k}]"


def test_only_the_first_picks_of_many_rows_are_replayed(monkeypatch):
    tokens = inputs.clustered(60, ks=(40,), depth=16)
    x = tokens.make("cpu")
    picks = torch.ops.tokenprune.divprune(x, 40)
    swapped = picks.clone()
    swapped[[38, 39]] = picks[[39, 38]]
    assert judge.mistake("divprune", x, swapped, 40, None).startswith("pick 38")
    monkeypatch.setattr(judge, "WHOLE_REPLAY_ROWS", 59)
    monkeypatch.setattr(judge, "REPLAYED_PICKS", 30)
    assert judge.mistake("divprune", x, swapped, 40, None) == ""
    assert "distinct" in judge.mistake("divprune", x, picks.clamp_max(5), 40, None)


@pytest.mark.parametrize("tokens", [SMALL, TINY_BATCH], ids=lambda tokens: tokens.layout)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("method", METHODS)
def test_every_implementation_is_judged_and_timed(method, dtype, tokens):
    case, made = Case(tokens, method, dtype), benchmark()
    made.measure(case)
    assert made.rows[0].implementation == OPERATOR.name
    for each in made.rows:
        if each.note in ("is not installed",):
            continue
        assert each.times == Times(2.0, 1.0, 6.0, 3), each.note
        assert each.correct is not None
        if each.ours or tokens is TINY_BATCH or "in float32" in each.implementation:
            assert each.correct is True
            assert each.note == ""


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
    implementation = next(each for each in peers.CPU_PEERS if each.name == name and method in each.methods)
    pytest.importorskip(implementation.module)
    # All similarities are positive here: pyversity takes negative ones for 0.
    tokens = dataclasses.replace(SMALL, make=lambda device: SMALL.make(device) + 1.0, name="positive")
    given = task(Case(tokens, method, torch.float32))
    assert torch.equal(implementation.prepare(given)(given.x), peers.operator(given)(given.x))


@LAYOUTS
@pytest.mark.parametrize("method", METHODS)
def test_items_get_the_picks_of_single_calls(tokens, method):
    given = task(Case(tokens, method, torch.float32))
    singly = given.tokens.picks(peers.single_calls(given)(given.x))
    assert judge.same(given.tokens.picks(peers.operator(given)(given.x)), singly)
    assert len(singly) == len(tokens.counts)


@pytest.mark.parametrize("ours", [True, False])
def test_a_wrong_operator_has_no_time_and_a_wrong_peer_has_one(ours):
    implementation = OPERATOR if ours else peers.RUNNING_MINIMUM
    turned = wrong(implementation, lambda given: lambda x: peers.operator(given)(x).flip(-1))
    made = benchmark()
    made.measure_one(Case(SMALL, "divprune", torch.float32), turned, "", {})
    assert made.rows[0].correct is False
    assert made.rows[0].note.startswith("pick ")
    assert (made.rows[0].times is None) == ours


def test_every_timed_call_must_pick_as_the_checked_one():
    calls = []

    def changing(given):
        right = peers.operator(given)(given.x)

        def call(x):
            calls.append(x)
            return right if len(calls) < 4 else right.flip(-1)

        return call

    made = benchmark()
    made.measure_one(Case(SMALL, "divprune", torch.float32), wrong(OPERATOR, changing), "", {})
    assert made.rows[0].correct is False
    assert made.rows[0].times is None
    assert made.rows[0].note == "the timed calls picked otherwise than the checked one"


def test_the_operator_is_timed_again_after_its_peers(monkeypatch):
    monkeypatch.setattr(cpu, "perf_counter", itertools.count(step=0.001).__next__)
    monkeypatch.setattr(cpu, "rates", lambda x: cpu.Rates(1e9, 1e9))
    made = benchmark(cpu.Cpu())
    made.measure(Case(SMALL, "idpruner", torch.float32))
    timed = [each for each in made.rows if each.times]
    assert made.rows[0].times.samples == cpu.MOST_ROUNDS * len(timed)
    assert all(each.times.samples == cpu.MOST_ROUNDS for each in timed[1:])


def test_an_operator_that_picks_otherwise_the_second_time_is_wrong(monkeypatch):
    class Again(Clock):
        again_seconds = 0.1

        def time(self, select, x, how="", seconds=None):
            turned = (lambda x: select(x).flip(-1)) if seconds else select
            return super().time(turned, x)

    made = benchmark(Again())
    made.measure(Case(SMALL, "idpruner", torch.float32))
    assert made.rows[0].correct is False
    assert made.rows[0].times is None


def test_picks_that_have_been_judged_need_no_second_replay(monkeypatch):
    made = benchmark()
    replays = []
    found = judge.mistake_of_items
    monkeypatch.setattr(judge, "mistake_of_items", lambda *given: replays.append(given) or found(*given))
    case, runs = Case(SMALL, "divprune", torch.float32), {}
    twice = dataclasses.replace(peers.RUNNING_MINIMUM, name="again")
    for implementation in (OPERATOR, peers.RUNNING_MINIMUM, twice):
        made.measure_one(case, implementation, "", runs)
    turned = wrong(twice, lambda given: lambda x: peers.operator(given)(x).flip(-1))
    made.measure_one(case, turned, "", runs)
    assert len(replays) == 2
    assert [each.correct for each in made.rows] == [True, True, True, False]


def test_what_fails_is_noted_and_the_rest_goes_on():
    def failing(given):
        raise RuntimeError("called a synchronizing operation\nat /home/someone/file.cpp:3")

    made = benchmark()
    case = Case(SMALL, "divprune", torch.float32)
    made.measure_one(case, wrong(peers.RUNNING_MINIMUM, failing), "", {})
    made.measure_one(case, OPERATOR, "", {})
    assert made.rows[0].note == "RuntimeError: called a synchronizing operation"
    assert made.rows[0].times is made.rows[0].correct is None
    assert made.rows[1].times is not None


def test_what_is_left_out_says_why():
    case = Case(SMALL, "divprune", torch.float32)
    implementation = dataclasses.replace(OPERATOR, most_rows=39)
    assert implementation.left_out(case) == "takes seconds above N = 39"
    implementation = dataclasses.replace(OPERATOR, most_rows=40, module="no_such_module")
    assert implementation.left_out(case) == "is not installed"
    assert OPERATOR.left_out(case) == ""
    made = benchmark()
    made.measure_one(case, implementation, "", {})
    assert (made.rows[0].note, made.rows[0].times) == ("is not installed", None)


def test_nothing_starts_once_the_budget_is_spent():
    now = iter((0.0, 1.0, *[9.0] * 20))
    made = benchmark(seconds=8.0, clock=lambda: next(now))
    made.measure(Case(SMALL, "divprune", torch.float32))
    assert len(made.rows) == 1
    assert made.not_started[0].startswith("published DivPrune loop on divprune")


def test_a_loop_that_is_not_compiled_as_a_whole_says_so(monkeypatch):
    compile_loop = torch.compile
    monkeypatch.setattr(torch, "compile", lambda loop, dynamic: compile_loop(loop, dynamic=dynamic, backend="eager"))
    for compiled in peers.COMPILED:
        torch._dynamo.reset()
        torch._dynamo.utils.counters.clear()
        made = benchmark()
        made.measure_here(Case(SMALL, compiled.methods[0], torch.float32), compiled.name)
        (only,) = made.rows
        assert only.times is not None
        assert only.correct is True
        assert only.note.startswith("not compiled as a whole: ") == (compiled.methods == ("divprune",))
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()


def test_rows_of_compiled_loops_come_from_another_process(monkeypatch):
    case, compiled = Case(SMALL, "divprune", torch.float32), peers.COMPILED[0]
    rows = [dataclasses.asdict(row(compiled.name, 30.0, correct=True))]
    answers = iter((f"noise\n{json.dumps(rows)}\n", "no JSON", ""))
    commands = []
    monkeypatch.setattr(
        measure, "run_with_timeout", lambda seconds, command: commands.append((seconds, command)) or next(answers)
    )
    made = benchmark(seconds=7.0, clock=lambda: 0.0)
    for _ in range(3):
        made.measure_apart(case, compiled)
    assert dataclasses.asdict(made.rows[0]) == rows[0]
    assert made.rows[1].note.startswith("JSONDecodeError")
    assert made.rows[2].note.startswith("IndexError")
    assert commands[0] == (7.0, [sys.executable, "-m", "bench", "cpu", "--apart", str(case), compiled.name])

    def slow(seconds, command):
        raise subprocess.TimeoutExpired(command, seconds)

    monkeypatch.setattr(measure, "run_with_timeout", slow)
    made.measure_apart(case, compiled)
    assert made.rows[3].note == "not compiled within 7 s"


def test_a_command_is_stopped_in_time():
    from bench.run_with_timeout import run_with_timeout

    assert run_with_timeout(60, [sys.executable, "-c", "print('done')"]) == "done\n"
    with pytest.raises(subprocess.TimeoutExpired):
        run_with_timeout(0.2, [sys.executable, "-c", "import time; time.sleep(60)"])
    with pytest.raises(subprocess.SubprocessError, match="exit code 1, stopped"):
        run_with_timeout(60, [sys.executable, "-c", "raise SystemExit('stopped')"])


def test_the_fastest_peers_are_those_of_the_same_case():
    rows = [
        row(median=10.0, correct=True),
        row("slow", 50.0, correct=True),
        row("fast", 30.0, correct=True, how="eager"),
        row("wrong", 20.0, correct=False),
        row("left out"),
        row("picks nothing", 1.0),
        row("of another dtype", 1.0, torch.bfloat16, correct=True),
        row("on other tokens", 1.0, tokens=inputs.noise(40), correct=True),
    ]
    compare(rows)
    assert (rows[0].fastest_correct_peer, rows[0].ratio) == ("fast, eager", 3.0)
    assert (rows[0].fastest_peer, rows[0].ratio_to_fastest_peer) == ("wrong", 2.0)
    assert rows[1].fastest_peer is None
    alone = [row(median=10.0, correct=True), rows[3]]
    compare(alone)
    assert (alone[0].ratio, alone[0].ratio_to_fastest_peer) == (None, 2.0)
