"""The benchmark of a busy processor, for milliseconds."""

import io
import json
import os
import subprocess
import sys
import time

import pytest
import torch

pytest.importorskip("skimage")
pytest.importorskip("bench", reason="the benchmarks are only in the source tree")

from bench import files, load, load_worker, render
from bench.peers import CPU_PEERS

KEY = {"implementation": load.OPERATOR.name, "side": 4, "dtype": "bfloat16"}


def alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def answers(*milliseconds):
    return {"milliseconds": list(milliseconds), "elapsed": 1e-3 * sum(milliseconds), "wrong": False}


def result(rows):
    machine = {"processor": "Some CPU", "instruction_sets": ["portable", "fast"], "threads": 2}
    machine |= {"depth": 4_096, "torch": "1.0"}
    return {"machine": machine, "seconds": 5.0, "settings": [], "rows": rows}


def row(implementation, *processes, note=""):
    return {
        "setting": "quiet",
        "size": "576, k = 58",
        "dtype": "bfloat16",
        "method": "divprune",
        "implementation": implementation,
        "processes": [dict(zip(("calls", "median", "worst"), each, strict=True)) for each in processes],
        "correct": not note,
        "note": note,
    }


def test_a_worker_calls_until_the_time_is_over(threads):
    worker = load_worker.Worker()
    assert worker.prepare(**KEY, judged=True) == {"note": ""}
    assert worker.prepare(**KEY, judged=False) == {}
    before = torch.get_num_threads()
    for asked, callers in ((1, 1), (3, 2), (0, 1)):
        answer = worker.run(**KEY, threads=asked, callers=callers, seconds=0.02)
        assert len(answer["milliseconds"]) >= callers
        assert answer["elapsed"] >= 0.02
        assert answer["wrong"] is False
        assert torch.get_num_threads() == (asked or before)


def test_a_worker_notices_wrong_picks():
    worker = load_worker.Worker()
    worker.prepare(**KEY, judged=False)
    given, select, picks = worker.prepared[tuple(KEY.values())]
    worker.prepared[tuple(KEY.values())] = given, lambda x: select(x).flip(-1), picks
    assert worker.run(**KEY, threads=0, callers=1, seconds=0.0)["wrong"] is True


def test_a_worker_answers_line_by_line(monkeypatch, capsys):
    requests = [{"do": "prepare", **KEY, "judged": True}]
    monkeypatch.setattr(sys, "stdin", io.StringIO("".join(json.dumps(each) + "\n" for each in requests)))
    load_worker.main()
    assert json.loads(capsys.readouterr().out) == {"note": ""}


def test_neighbours_work_and_are_gone_afterwards(monkeypatch):
    setting = load.Setting("busy", neighbours=2, busy=0.001, idle=0.001, nice=1)
    started = []

    class Recorded(subprocess.Popen):
        def __init__(self, *given, **options):
            super().__init__(*given, **options)
            started.append(self.pid)

    def interrupted():
        with load.neighbours(setting):
            assert len(started) == 2
            assert all(map(alive, started))
            raise KeyboardInterrupt

    monkeypatch.setattr(load.subprocess, "Popen", Recorded)
    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert not any(map(alive, started))


def test_a_neighbour_ends_with_its_parent():
    code = (
        "import os, subprocess, sys; p = subprocess.Popen([sys.executable, '-c', sys.argv[1], '0.01', '0', '0',"
        " str(os.getpid())], stdout=subprocess.DEVNULL); print(p.pid)"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code, load.NEIGHBOUR], stdout=subprocess.PIPE, timeout=60, check=True
    )
    pid = int(answer.stdout)
    deadline = time.monotonic() + 20
    while alive(pid) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not alive(pid)


def test_the_calls_of_a_process_are_counted_in_the_time_they_took():
    summed = load.summed([answers(100.0, 300.0), answers(500.0, 100.0)], 5.0)
    assert summed == {"calls": pytest.approx(20.0), "median": 200.0, "worst": 500.0}


class Scripted:
    """A worker whose process never answers; it answers itself."""

    loop_milliseconds = 1_000.0

    def __init__(self):
        self.process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
        self.requests = []

    def ask(self, do, **request):
        self.requests.append({"do": do, **request})
        Scripted.asked.append((self, do, request))

    def answer(self):
        request = self.requests.pop(0)
        if request["do"] == "prepare":
            wrong = request["implementation"] != load.OPERATOR.name
            return {"note": "pick 3: wrong" if wrong else ""} if request["judged"] else {}
        return answers(1_000.0 if request["implementation"] == load.OPERATOR.name else Scripted.loop_milliseconds)


def test_the_implementations_take_turns_in_every_setting(monkeypatch):
    monkeypatch.setattr(load, "Worker", Scripted)
    settings = [
        load.Setting("quiet"),
        load.Setting("two", processes=2, threads=8, callers=4),
        load.Setting("nice", neighbours=1, dtypes=("bfloat16", "float32")),
    ]
    Scripted.asked = []
    measured = load.measured(settings, (4,), 3.0)
    assert [
        (each["setting"], each["dtype"], each["implementation"], len(each["processes"])) for each in measured["rows"]
    ] == [
        (setting, dtype, implementation, processes)
        for setting, dtype, processes in (
            ("quiet", "bfloat16", 1),
            ("two", "bfloat16", 2),
            ("nice", "bfloat16", 1),
            ("nice", "float32", 1),
        )
        for implementation in load.CONTESTANTS
    ]
    runs = [request for _, do, request in Scripted.asked if do == "run"]
    asked = [(each["implementation"], each["threads"], each["callers"]) for each in runs]
    ours, loop = load.OPERATOR.name, load.RUNNING_MINIMUM.name
    assert asked[:9] == [(ours, 0, 1), (ours, 1, 1), (loop, 0, 1)] * 3
    assert asked[9:15] == [(ours, 8, 4)] * 2 + [(ours, 1, 1)] * 2 + [(loop, 8, 4)] * 2
    assert all(each["seconds"] == 1.0 for each in runs)
    assert [each["note"] for each in measured["rows"][:3]] == ["", "", "pick 3: wrong"]
    assert [each["correct"] for each in measured["rows"][:3]] == [True, True, False]
    assert all(worker.process.poll() is not None for worker, _, _ in Scripted.asked)
    json.dumps(measured)


def test_calls_longer_than_a_turn_take_fewer_turns(monkeypatch):
    monkeypatch.setattr(load, "Worker", Scripted)
    monkeypatch.setattr(Scripted, "loop_milliseconds", 3_000.0)
    Scripted.asked = []
    load.measured([load.Setting("quiet")], (4,), 6.0)
    runs = [request["implementation"] for _, do, request in Scripted.asked if do == "run"]
    assert [runs.count(load.CONTESTANTS[name]) for name in (load.OURS, load.LOOP)] == [6 + 6, 2]


def test_the_table_adds_up_processes_and_names_the_worst():
    wrong = row("tokenprune", note="pick 1: wrong") | {"setting": "two"}
    rows = [
        row("tokenprune", (100.4, 2.0, 9.0), (300.2, 4.0, 30.0)),
        row("tokenprune, one thread", (100.0, 2.0, 9.0), (150.0, 4.0, 9.0)),
        row("running-minimum loop", (40.0, 20.0, 60.0), (4.25, 22.0, 70.0), note="pick 3: wrong"),
        wrong,
        wrong | {"implementation": "tokenprune, one thread"},
        row("running-minimum loop", (40.0, 20.0, 60.0)) | {"setting": "two"},
    ]
    lines = load.table(result(rows)).splitlines()
    assert lines[2] == (
        "| quiet | 576, k = 58 | bfloat16 | 100 + 300 (3.00, 30.0) | 100 + 150 (3.00, 9.00) | 40 + 4.2 (21.0, 70.0) "
        "| 1.60 | 9.05 |"
    )
    none = "none: wrong picks"
    assert lines[3] == f"| two | 576, k = 58 | bfloat16 | {none} | {none} | 40 (20.0, 60.0) | - | - |"
    assert "Some CPU (fast), 2 threads" in lines[5]
    assert lines[6].startswith("Wrong picks: running-minimum loop 576, k = 58 bfloat16: pick 3: wrong; tokenprune")


def test_a_result_without_one_thread_has_no_column_for_it():
    rows = [row("tokenprune", (100.0, 2.0, 9.0)), row("running-minimum loop", (40.0, 20.0, 60.0))]
    lines = load.table(result(rows)).splitlines()
    assert lines[2] == "| quiet | 576, k = 58 | bfloat16 | 100 (2.00, 9.00) | 40 (20.0, 60.0) | 2.50 |"


def test_a_whole_run_is_written(monkeypatch, capsys):
    rows = [row("tokenprune", (100.0, 2.0, 9.0)), row("running-minimum loop", (40.0, 20.0, 60.0))]
    written = []
    monkeypatch.setattr(load, "measured", lambda settings, sides, seconds: result(rows) | {"settings": len(settings)})
    monkeypatch.setattr(files, "write", lambda name, made: written.append((name, made["settings"])))
    monkeypatch.setattr(render, "write", lambda: None)
    assert load.main([]) == 0
    assert written == [("load-some-cpu.json", len(load.SETTINGS))]
    for options in (["--only", "nice"], ["--no-write"]):
        assert load.main(options) == 0
    assert len(written) == 1
    rows.append(rows[0] | {"implementation": load.ALONE})
    for wrong, code in ((0, 1), (1, 0), (2, 1)):
        for number, each in enumerate(rows):
            each["note"] = "pick 1: wrong" if number == wrong else ""
        assert load.main(["--no-write"]) == code
    for options in (["--only", "no such"], ["--seconds", "0"]):
        with pytest.raises(SystemExit):
            load.main(options)


def test_the_loop_is_a_peer_of_the_benchmark():
    assert {load.RUNNING_MINIMUM} < set(CPU_PEERS)


@pytest.mark.slow
def test_workers_and_neighbours_of_other_processes():
    settings = [load.Setting("quiet"), load.Setting("two", processes=2, neighbours=1, nice=10)]
    measured = load.measured(settings, (6,), 0.1)
    assert [len(each["processes"]) for each in measured["rows"]] == [1, 1, 1, 2, 2, 2]
    assert all(process["calls"] > 0 for each in measured["rows"] for process in each["processes"])
    assert measured["rows"][0]["correct"] is True
