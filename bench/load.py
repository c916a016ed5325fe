"""``python -m bench load``: DivPrune, and the fastest loop, on a processor that other work keeps busy.

The two take turns, of a second or so, in each setting. Writes ``bench/results/load-PROCESSOR.json`` and the table of
docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import select
import statistics
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from bench import files, render
from bench.inputs import DIMENSIONS, photograph
from bench.markdown import heading, line, number
from bench.peers import OPERATOR, RUNNING_MINIMUM
from tokenprune_kernels import build_info
from tokenprune_kernels.analysis.progress import Progress

OURS, ALONE, LOOP = OPERATOR.name, f"{OPERATOR.name}, one thread", RUNNING_MINIMUM.name
# What takes turns. ALONE is one calling thread that works alone.
CONTESTANTS = {OURS: OPERATOR.name, ALONE: OPERATOR.name, LOOP: RUNNING_MINIMUM.name}
SIDES = (24, 54)
SECONDS, TURN_SECONDS = 5.0, 1.0
LATE_SECONDS = 0.5
# The answer to one request; a loaded machine may take many times as long as a quiet one.
LONGEST_ANSWER = 120.0

# Works for argv[1] seconds and sleeps for argv[2], at nice argv[3], until its parent, process argv[4], is gone.
NEIGHBOUR = """
import os, sys, time
busy, idle = float(sys.argv[1]), float(sys.argv[2])
os.nice(int(sys.argv[3]))
while os.getppid() == int(sys.argv[4]):
    end = time.perf_counter() + busy
    while time.perf_counter() < end:
        pass
    if idle:
        time.sleep(idle)
"""


@dataclass(frozen=True)
class Setting:
    """What else the processor does.

    Attributes:
        processes: how many of them call at once.
        threads: of each; 0 is torch's default. ``ALONE`` has one.
        callers: threads of a process that call at once. ``ALONE`` has one.
        neighbours: other processes, which work for ``busy`` seconds and sleep for ``idle``, at ``nice``.
    """

    name: str
    processes: int = 1
    threads: int = 0
    callers: int = 1
    neighbours: int = 0
    busy: float = 0.1
    idle: float = 0.0
    nice: int = 0
    dtypes: tuple[str, ...] = ("bfloat16",)


SETTINGS = (
    Setting("quiet"),
    Setting("two processes at once", processes=2),
    Setting("beside a busy loop", neighbours=1),
    Setting("beside two busy loops", neighbours=2),
    Setting("beside a process that works 4 ms and sleeps 1", neighbours=1, busy=0.004, idle=0.001),
    Setting("beside a busy loop at nice 10", neighbours=1, nice=10, dtypes=("bfloat16", "float32")),
    Setting("eight calling threads", callers=8),
    Setting("32 threads asked for", threads=32),
)


class Worker:
    """A process that calls when it is asked to."""

    def __init__(self) -> None:
        command = [sys.executable, "-m", "bench.load_worker"]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=files.ROOT
        )

    def ask(self, do: str, **request: Any) -> None:
        self.process.stdin.write(json.dumps({"do": do, **request}) + "\n")
        self.process.stdin.flush()

    def answer(self) -> dict[str, Any]:
        """What it says to the last request.

        Raises:
            RuntimeError: when it says nothing.
        """
        ready, _, _ = select.select([self.process.stdout], [], [], LONGEST_ANSWER)
        answer = self.process.stdout.readline() if ready else ""
        if not answer:
            raise RuntimeError(f"expected an answer of a worker within {LONGEST_ANSWER:.0f} s, got none")
        return json.loads(answer)


@contextlib.contextmanager
def killed_in_the_end(processes: list[subprocess.Popen]) -> Iterator[None]:
    """Kills the processes that are in the list then."""
    try:
        yield
    finally:
        for process in processes:
            process.kill()
        for process in processes:
            process.wait()


@contextlib.contextmanager
def neighbours(setting: Setting) -> Iterator[None]:
    """Keeps the neighbours of a setting running inside the ``with`` block."""
    started: list[subprocess.Popen] = []
    with killed_in_the_end(started):
        for _ in range(setting.neighbours):
            options = map(str, (setting.busy, setting.idle, setting.nice, os.getpid()))
            started.append(subprocess.Popen([sys.executable, "-c", NEIGHBOUR, *options]))
        yield


def prepared(workers: Sequence[Worker], keys: Sequence[tuple[str, int, str]]) -> dict[tuple[str, int, str], str]:
    """Has every worker make its inputs and first calls; what is wrong with the picks of each, by the first worker."""
    notes = {}
    for key in keys:
        for worker in workers:
            worker.ask("prepare", **_named(key), judged=worker is workers[0])
        first, *_ = [worker.answer() for worker in workers]
        notes[key] = first["note"]
    return notes


def _named(key: tuple[str, int, str]) -> dict[str, Any]:
    return dict(zip(("implementation", "side", "dtype"), key, strict=True))


def cell(workers: Sequence[Worker], setting: Setting, side: int, dtype: str, seconds: float) -> list[dict[str, Any]]:
    """The calls of each contestant in a setting, one row each; they take turns."""
    turns = max(1, round(seconds / TURN_SECONDS))
    answers: dict[str, list[list[dict[str, Any]]]] = {name: [] for name in CONTESTANTS}
    for turn, name in itertools.product(range(turns), CONTESTANTS):
        # A call may take longer than a turn; then the next turns are left out.
        if sum(each[0]["elapsed"] for each in answers[name]) > turn * seconds / turns + LATE_SECONDS:
            continue
        for worker in workers:
            worker.ask(
                "run",
                **_named((CONTESTANTS[name], side, dtype)),
                threads=1 if name == ALONE else setting.threads,
                callers=1 if name == ALONE else setting.callers,
                seconds=seconds / turns,
            )
        answers[name].append([worker.answer() for worker in workers])
    tokens = photograph("", side)
    return [
        {
            "setting": setting.name,
            "size": tokens.size,
            "dtype": dtype,
            "method": "divprune",
            "implementation": name,
            "processes": [summed(each, seconds) for each in zip(*answers[name], strict=True)],
            "wrong_calls": any(answer["wrong"] for turn in answers[name] for answer in turn),
        }
        for name in CONTESTANTS
    ]


def summed(answers: Sequence[dict[str, Any]], seconds: float) -> dict[str, float]:
    """The calls that one process makes in ``seconds``, and their median and worst milliseconds."""
    milliseconds = [each for answer in answers for each in answer["milliseconds"]]
    elapsed = sum(answer["elapsed"] for answer in answers)
    return {
        "calls": len(milliseconds) * seconds / elapsed,
        "median": statistics.median(milliseconds),
        "worst": max(milliseconds),
    }


def measured(settings: Sequence[Setting], sides: Sequence[int], seconds: float) -> dict[str, Any]:
    """The content of the JSON file."""
    dtypes = dict.fromkeys(dtype for setting in settings for dtype in setting.dtypes)
    cells = [(setting, side, dtype) for setting in settings for side in sides for dtype in setting.dtypes]
    rows = []
    workers: list[Worker] = []
    processes: list[subprocess.Popen] = []
    with Progress(1 + len(cells), lines=True) as progress, killed_in_the_end(processes):
        progress.step("inputs")
        for _ in range(max(setting.processes for setting in settings)):
            workers.append(Worker())
            processes.append(workers[-1].process)
        implementations = dict.fromkeys(CONTESTANTS.values())
        keys = [(name, side, dtype) for dtype in dtypes for side in sides for name in implementations]
        notes = prepared(workers, keys)
        for setting, side, dtype in cells:
            progress.step(f"{setting.name}: {side**2:,} {dtype}")
            with neighbours(setting):
                made = cell(workers[: setting.processes], setting, side, dtype, seconds)
            for row in made:
                implementation = CONTESTANTS[row["implementation"]]
                note = notes[implementation, side, dtype]
                if row.pop("wrong_calls"):
                    note = "the timed calls picked otherwise than the checked one"
                row |= {"correct": not note, "note": note}
                if note and implementation == OPERATOR.name:
                    row["processes"] = []
                rows.append(row)
    return {
        "machine": {
            "processor": files.processor(),
            "instruction_sets": build_info()["backends"]["native"]["supported_isas"],
            "threads": torch.get_num_threads(),
            "depth": DIMENSIONS,
            "torch": torch.__version__,
        },
        "seconds": seconds,
        "settings": [asdict(setting) for setting in settings],
        "rows": rows,
    }


def table(result: dict[str, Any]) -> str:
    """The result in Markdown."""
    seconds = f"{result['seconds']:g} s"
    cells: dict[tuple[str, str, str], dict[str, dict[str, Any]]] = {}
    for row in result["rows"]:
        cells.setdefault((row["setting"], row["size"], row["dtype"]), {})[row["implementation"]] = row
    # An earlier version of this benchmark had settings with one thread in the place of ALONE.
    shown = [name for name in CONTESTANTS if any(name in cell for cell in cells.values())]
    titles = [f"{name.replace(OPERATOR.name, 'ours')}: calls in {seconds} (median, worst ms)" for name in shown]
    times = [f"times as many calls as {'with one thread' if name == ALONE else 'the loop'}" for name in shown[1:]]
    lines = heading(("`divprune`", "N, k", "dtype", *titles, *times))
    for key, cell in cells.items():
        ratios = [_times(cell[OURS], cell[name]) for name in shown[1:]]
        lines.append(line((*key, *(_calls(cell[name]) for name in shown), *ratios)))
    machine = result["machine"]
    sentence = (
        f"A photograph, D = {machine['depth']:,}; the implementations take turns of a second. "
        f"{'One thread is a single calling thread, whatever the setting. ' if ALONE in shown else ''}"
        f"{machine['processor']} ({machine['instruction_sets'][-1]}), {machine['threads']} threads unless said "
        f"otherwise, torch {machine['torch']}."
    )
    wrong = dict.fromkeys(
        f"{row['implementation']} {row['size']} {row['dtype']}: {row['note']}" for row in result["rows"] if row["note"]
    )
    return "\n".join([*lines, "", sentence, *([f"Wrong picks: {'; '.join(wrong)}."] if wrong else [])])


def _times(ours: dict[str, Any], other: dict[str, Any]) -> str:
    calls = [sum(each["calls"] for each in row["processes"]) for row in (ours, other)]
    return number(calls[0] / calls[1]) if all(calls) else "-"


def _calls(row: dict[str, Any]) -> str:
    processes = row["processes"]
    if not processes:
        return "none: wrong picks"
    calls = " + ".join(f"{each['calls']:,.0f}" if each["calls"] >= 10 else f"{each['calls']:.1f}" for each in processes)
    median = number(statistics.median(each["median"] for each in processes))
    return f"{calls} ({median}, {number(max(each['worst'] for each in processes))})"


def main(arguments: Sequence[str]) -> int:
    """Measures; the exit code is 1 where the operator picked wrongly."""
    parser = argparse.ArgumentParser(prog="python -m bench load", description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--seconds", type=float, default=SECONDS, help="of each implementation in each cell (%(default)s)"
    )
    parser.add_argument("--only", metavar="TEXT", default="", help="the settings with this in their names")
    parser.add_argument("--out", type=Path, metavar="FILE", help="also write the result to this file")
    parser.add_argument("--no-write", action="store_true", help="leave bench/results and the documents as they are")
    options = parser.parse_args(arguments)
    if not options.seconds > 0:
        parser.error(f"expected --seconds to be above 0, got {options.seconds:g}")
    settings = [setting for setting in SETTINGS if options.only in setting.name]
    if not settings:
        parser.error(f"expected --only to be in one of {'; '.join(setting.name for setting in SETTINGS)}")
    result = measured(settings, SIDES, options.seconds)
    print(table(result))
    if options.out:
        options.out.write_text(json.dumps(result, indent=1) + "\n")
    if options.only or options.no_write:
        print("\nbench/results and the documents stay as they are.")
    else:
        files.write(files.file_name("load", result["machine"]["processor"]), result)
        render.write()
    ours = (row for row in result["rows"] if CONTESTANTS[row["implementation"]] == OPERATOR.name)
    return 1 if any(row["note"] for row in ours) else 0
