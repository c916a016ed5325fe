"""``python -m bench cpu`` and ``python -m bench cuda``: the operators beside what users run today.

Writes ``bench/results/DEVICE-MACHINE.json`` and the tables of docs/benchmarks.md and README.md, unless only a part was
measured (``--quick``, ``--only``) or ``--no-write`` is given.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from bench import files, render, sweep, tables
from bench.budget import Budget
from bench.devices.cpu import Cpu
from bench.measure import Benchmark, Device
from bench.row import Row, compare
from tokenprune_kernels.analysis.progress import Progress

CASE_SECONDS = 60
"""How long a case may take where cases are resumed. SIGALRM ends a process whose kernel never returns."""


def device_named(name: str) -> Any:
    """The device; the Triton backend is not imported for the CPU's sake."""
    if name == "cpu":
        return Cpu()
    from bench.devices.cuda import Cuda

    return Cuda()


def parsed(name: str, arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog=f"python -m bench {name}", description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a few small inputs")
    parser.add_argument("--only", metavar="TEXT", help="the cases with this in their names")
    parser.add_argument("--budget", type=float, metavar="SECONDS", help="how long measurements may be started")
    parser.add_argument("--out", type=Path, metavar="FILE", help="also write the result to this file")
    parser.add_argument(
        "--results", type=Path, metavar="FOLDER", help="write there instead, after each case, and leave the documents"
    )
    parser.add_argument("--resume", type=Path, metavar="FILE", help="leave out the cases that this result has begun")
    parser.add_argument("--no-write", action="store_true", help="leave bench/results and the documents as they are")
    parser.add_argument("--apart", nargs=2, metavar=("CASE", "PEER"), help=argparse.SUPPRESS)
    if name == "cpu":
        parser.add_argument("--sweep", action="store_true", help="time block sizes of the native backend instead")
    return parser.parse_args(arguments)


def measured(
    device: Any, options: argparse.Namespace, save: Callable[[dict[str, Any]], object] = lambda result: None
) -> dict[str, Any]:
    """The content of the JSON file, which is saved as far as it is known, and with what has begun, after each case."""
    cases = [case for case in device.cases(options.quick) if (options.only or "") in str(case)]
    # Compiling takes long: one input, after those that tell most.
    first = device.cases(False)[0].tokens
    with_compiled = [case for case in cases if case.tokens == first and not options.quick]
    budget = Budget(device.budget_seconds if options.budget is None else options.budget)
    before: dict[str, Any] = json.loads(options.resume.read_text()) if options.resume else {}
    benchmark = Benchmark(device, budget)
    # Name, how long it may take, and what it does.
    steps: list[tuple[str, int, Callable[[], None]]] = []
    for number, case in enumerate(cases):
        steps.append((str(case), CASE_SECONDS if options.results else 0, functools.partial(benchmark.measure, case)))
        if number == min(device.cases_before_compiled, len(cases)) - 1:
            steps += [
                (f"{each}, compiled", 0, functools.partial(benchmark.measure_compiled, each)) for each in with_compiled
            ]
    with Progress(len(steps) + 1, lines=True) as progress:
        progress.step("the machine")
        benchmark.rows = [Row.read(row) for row in before.pop("rows", [])]
        benchmark.begun = before.pop("begun", [])
        before.pop("not_started", None)
        surroundings = before or device.surroundings(benchmark, options.quick)
        for name, seconds, step in steps:
            progress.step(name)
            if name in benchmark.begun:
                continue
            if budget.left() > 0:
                benchmark.begun.append(name)
                save(result_of(benchmark, surroundings) | {"begun": benchmark.begun})
            signal.alarm(seconds)
            step()
            signal.alarm(0)
            save(result_of(benchmark, surroundings) | {"begun": benchmark.begun})
            if device.type == "cuda":
                torch.cuda.synchronize()  # raises where the device is broken: another process goes on
    result = result_of(benchmark, surroundings)
    save(result)
    return result


def result_of(benchmark: Benchmark, surroundings: dict[str, Any]) -> dict[str, Any]:
    """The content of the JSON file so far."""
    compare(benchmark.rows)
    return {
        **surroundings,
        "rows": [dataclasses.asdict(row) for row in benchmark.rows],
        "not_started": benchmark.not_started,
    }


def measured_apart(device: Device, case_name: str, peer: str) -> str:
    """The rows of a peer that is to be compiled, in one line of JSON."""
    case = next(case for case in device.cases(False) if str(case) == case_name)
    benchmark = Benchmark(device, Budget(float("inf")))
    benchmark.measure_here(case, peer)
    return json.dumps([dataclasses.asdict(row) for row in benchmark.rows])


def main(name: str, arguments: Sequence[str]) -> int:
    """Measures; the exit code is 1 where an operator has no time and 2 without the device."""
    options = parsed(name, arguments)
    if name == "cuda" and not torch.cuda.is_available():
        print("bench cuda: expected a CUDA device, got none", file=sys.stderr)
        return 2
    device = device_named(name)
    if options.apart:
        print(measured_apart(device, *options.apart))
        return 0
    if name == "cpu" and options.sweep:
        print(sweep.table(options.only or ""))
        return 0

    def save(result: dict[str, Any]) -> None:
        if options.results:
            files.write(files.file_name(name, result["machine"]["processor"]), result, options.results)

    result = measured(device, options, save)
    rows = tables.rows_of(result)
    module = sys.modules[type(device).__module__]
    print(f"{tables.details(rows)}\n\n{module.table(result)}")
    if options.out:
        options.out.write_text(json.dumps(result, indent=1) + "\n")
    if options.quick or options.only or options.no_write or options.results:
        print("\nbench/results and the documents stay as they are.")
    else:
        files.write(files.file_name(name, result["machine"]["processor"]), result)
        render.write()
    return 1 if any(row.ours and row.times is None for row in rows) else 0
