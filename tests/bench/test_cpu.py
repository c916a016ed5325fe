"""What the benchmark knows of the processor, and its command."""

import json
import subprocess

import pytest
import torch

pytest.importorskip("bench", reason="the benchmarks are only in the source tree")

from bench import __main__ as commands
from bench import files, memory, render, run, sweep
from bench.cases import Case, task
from bench.devices import cpu
from bench.row import Row
from tests.bench.common import SMALL, Clock
from tokenprune_kernels.methods import METHODS


@pytest.fixture
def small(monkeypatch):
    """A benchmark of two small cases, whose results go nowhere."""
    cases = [Case(SMALL, method, torch.float32) for method in ("divprune", "idpruner")]
    written = []
    monkeypatch.setattr(Clock, "cases", lambda self, quick: cases)
    monkeypatch.setattr(run, "Cpu", Clock)
    monkeypatch.setattr(run, "device_named", lambda name: Clock())
    monkeypatch.setattr(Clock, "__module__", cpu.__name__)
    monkeypatch.setattr(cpu, "product_rate", lambda dtype: 390e9)
    monkeypatch.setattr(memory, "extra_megabytes", lambda method, dtype: 12.5)
    monkeypatch.setattr(files, "write", lambda name, result: written.append((name, result)))
    monkeypatch.setattr(render, "write", lambda: written.append("documents"))
    monkeypatch.setattr(run.Benchmark, "measure_apart", lambda self, case, peer: self.start(peer.name))
    return written


@pytest.mark.parametrize(("seconds", "rounds"), [(0.0, 50), (1e-3, 50), (0.1, 10), (5.0, 3)])
def test_the_number_of_calls_is_bounded(seconds, rounds):
    assert cpu.rounds_for(seconds) == rounds


@pytest.mark.parametrize(("step", "calls"), [(0.001, 52), (2.0, 4)])
def test_what_takes_long_warms_up_once(monkeypatch, step, calls):
    ticks = iter(step * i for i in range(1_000))
    monkeypatch.setattr(cpu, "perf_counter", lambda: next(ticks))
    results, milliseconds = cpu.Cpu().time(lambda x: x, torch.ones(1))
    assert len(results) == calls
    assert len(milliseconds) == calls - (2 if step < 1 else 1)
    assert milliseconds == pytest.approx([1e3 * step] * len(milliseconds))


@pytest.mark.parametrize("method", METHODS)
def test_the_pairs_of_the_bound_are_at_most_all_pairs(method):
    for count in (1, 2, 17, 576):
        by_k = [cpu.pairs(method, count, k) for k in range(count + 1)]
        assert by_k == sorted(by_k)
        assert by_k[0] == 0
        assert by_k[-1] == count * (count - 1) // 2
        assert by_k[1] == (count - 1 if method == "divprune" else 0)


def test_the_bound_is_the_slower_of_reading_and_multiplying():
    rates = cpu.Rates(operations_per_second=1e9, bytes_per_second=1e9)
    assert cpu.bound("idpruner", (1_000,), (2,), 64, 4, rates) == pytest.approx(1_000 * 64 * 4 / 1e9)
    one = cpu.bound("divprune", (100,), (100,), 64, 2, rates)
    assert one == pytest.approx(100 * 99 * 64 / 1e9)
    assert cpu.bound("divprune", (100,) * 3, (100,) * 3, 64, 2, rates) == pytest.approx(3 * one)


def test_a_right_operator_has_its_bound(monkeypatch):
    monkeypatch.setattr(cpu, "rates", lambda x: cpu.Rates(1e30, x.nbytes / 0.002))
    made = Row.on(Case(SMALL, "divprune", torch.float32), "tokenprune")
    cpu.Cpu().explain(made, task(Case(SMALL, "divprune", torch.float32)), None)
    assert made.bound == pytest.approx(2.0)


def test_rates_are_measured(monkeypatch):
    monkeypatch.setattr(cpu, "EDGE", 32)
    assert cpu.product_rate.__wrapped__(torch.bfloat16) > 0
    assert cpu.read_rate(torch.ones(8, 16, dtype=torch.bfloat16)) > 0


@pytest.mark.parametrize("method", METHODS)
def test_extra_memory_is_that_of_the_call(monkeypatch, method):
    monkeypatch.setattr(memory, "COUNT", 200)
    monkeypatch.setattr(memory, "DEPTH", 64)
    monkeypatch.setattr(memory, "K", 20)
    assert 0 <= memory.run(method, torch.float32) < 50


def test_memory_of_a_process_that_fails_is_no_number(monkeypatch):
    answers = iter(["12.5\n"])

    def answer(*_):
        for text in answers:
            return text
        raise subprocess.SubprocessError("exit code 1, stopped")

    monkeypatch.setattr(memory, "run_with_timeout", answer)
    entries = cpu.extra_memory(lambda name: "bfloat16" in name)
    assert [(each["megabytes"], each["note"]) for each in entries] == [
        (12.5, ""),
        (None, "SubprocessError: exit code 1, stopped"),
    ]


def test_the_peak_is_that_since_the_last_reset():
    memory.reset_peak("cpu")
    before = memory.peak_bytes("cpu")
    block = torch.ones(2**26, dtype=torch.uint8)
    del block
    assert memory.peak_bytes("cpu") - before > 2**25
    memory.reset_peak("cpu")
    assert memory.peak_bytes("cpu") - before < 2**25


def test_a_whole_run_is_written(small, tmp_path, capsys):
    assert run.main("cpu", ["--out", str(tmp_path / "out.json")]) == 0
    (name, result), documents = small
    assert (name, documents) == (files.file_name("cpu", files.processor()), "documents")
    assert json.loads((tmp_path / "out.json").read_text()) == result
    assert str(tmp_path) not in json.dumps(result)
    assert len(result["memory"]["rows"]) == 4
    assert cpu.table(result) in capsys.readouterr().out


@pytest.mark.parametrize("options", [["--quick"], ["--no-write"], ["--only", "idpruner"]], ids=" ".join)
def test_a_part_of_a_run_is_not_written(small, options, capsys):
    assert run.main("cpu", options) == 0
    assert small == []
    printed = capsys.readouterr()
    assert "stay as they are" in printed.out
    assert ("divprune 64" in printed.err.replace("9 clusters", "64")) == ("--only" not in options)


def test_a_run_goes_on_behind_what_an_earlier_one_began(small, tmp_path, monkeypatch):
    saved, alarms = [], []
    monkeypatch.setattr(files, "write", lambda name, result, folder=None: saved.append(json.loads(json.dumps(result))))
    monkeypatch.setattr(run.signal, "alarm", alarms.append)
    assert run.main("cpu", ["--results", str(tmp_path)]) == 0
    first = str(Clock().cases(False)[0])
    begun = saved[0]
    assert (begun["rows"], begun["begun"]) == ([], [first])  # what a kernel that never returns leaves
    assert "begun" not in saved[-1]
    assert run.CASE_SECONDS in alarms
    assert alarms[-1] == 0
    (tmp_path / "begun").write_text(json.dumps(begun))
    saved.clear()
    assert run.main("cpu", ["--results", str(tmp_path), "--resume", str(tmp_path / "begun")]) == 0
    assert {each["method"] for each in saved[-1]["rows"]} == {"idpruner"}
    assert saved[-1]["machine"] == begun["machine"]


def test_an_operator_without_a_time_is_an_error(small, monkeypatch):
    assert run.main("cpu", ["--quick", "--budget", "0"]) == 0  # nothing has started
    monkeypatch.setattr(Clock, "time", lambda *given, **options: ([torch.zeros(4, dtype=torch.int64)], [1.0]))
    assert run.main("cpu", ["--quick"]) == 1


def test_a_compiled_peer_is_measured_apart(small, capsys, monkeypatch):
    measured = []
    monkeypatch.setattr(run.Benchmark, "measure_here", lambda self, case, name: measured.append((str(case), name)))
    case = str(Clock().cases(False)[0])
    assert run.main("cpu", ["--apart", case, "some loop"]) == 0
    assert measured == [(case, "some loop")]
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == []


def test_block_sizes_are_swept(monkeypatch):
    schema = torch.ops.tokenprune_native._force_block_sizes.default._schema
    assert list(sweep.GRID) == [argument.name for argument in schema.arguments]
    monkeypatch.setattr(sweep, "GRID", {"frontier": (2,), "signature_after": (sweep.NEVER,)})
    monkeypatch.setattr(sweep, "quick_cpu_cases", lambda: [Case(SMALL, "mmr", torch.float32)])
    monkeypatch.setattr(sweep, "SECONDS", 0.0)
    lines = sweep.table().splitlines()
    assert lines[0] == "| block size | value | mmr clustered float32 | mean |"
    assert [line.split(" | ")[:2] for line in lines[2:4]] == [
        ["| frontier", "2"],
        ["| signature_after", "never"],
    ]


def test_a_block_size_that_changes_picks_is_reported(monkeypatch):
    monkeypatch.setattr(sweep, "GRID", {"frontier": (2,)})
    monkeypatch.setattr(sweep, "quick_cpu_cases", lambda: [Case(SMALL, "mmr", torch.float32)])
    monkeypatch.setattr(Clock, "time", lambda *given, **options: ([torch.zeros(4, dtype=torch.int64)], [1.0]))
    monkeypatch.setattr(sweep, "Cpu", Clock)
    with pytest.raises(RuntimeError, match="frontier = 2 changes the picks of mmr"):
        sweep.table()


def test_every_command_is_there(capsys):
    for name in commands.COMMANDS:
        assert callable(commands.command_named(name))
    assert commands.main(["no such command"]) == commands.main([]) == 2
    assert "analysis" in capsys.readouterr().err


@pytest.mark.slow
def test_the_throughput_run_passes_without_timing():
    from tests.support.subprocess import python

    answer = python("import pytest, sys; sys.exit(pytest.main(['-q', 'bench', '-p', 'no:cacheprovider']))")
    assert answer.returncode == 0, answer.stdout
