"""Speed: the benchmark, in a process of its own, which writes its table after each case."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench import tables
from bench.gpu.findings import ERROR, MEASURED, NOT_STARTED, PASSED, TIMED_OUT, Finding, Findings
from bench.gpu.process import run_command
from bench.row import Row

STAGE = "speed"
LEAST_SECONDS = 10.0
"""Less time is not enough to start the benchmark."""


def run(findings: Findings, deadline: float, device: str) -> None:
    """Runs the benchmark within the time that is left, then adds what it wrote."""
    compile_ahead(findings, deadline)
    measure(findings, deadline, [sys.executable, "-m", "bench", "cuda"])


def compile_ahead(findings: Findings, deadline: float) -> None:
    """Compiles for the main shapes, as many at a time as there are processors."""
    from bench.gpu import ahead, calls, machine

    half = (time.monotonic() + deadline) / 2
    seconds, missing = ahead.compile_all(calls.main_calls(), machine.architecture(), half)
    findings.add(Finding(STAGE, "compiled ahead", MEASURED, seconds, facts=missing))


def measure(findings: Findings, deadline: float, command: Sequence[str]) -> None:
    """The cases. Behind one that ends the benchmark or breaks the device, another process goes on."""
    folder = findings.path.parent
    before = {path: path.stat().st_mtime for path in folder.glob("cuda-*.json")}
    begun: list[str] = []
    resume: list[str] = []
    written: list[Path] = []
    while (left := deadline - time.monotonic()) > LEAST_SECONDS:
        # Its last case may take longer than the budget that it has to start cases.
        options = ["--budget", f"{0.8 * left:.0f}", "--results", str(folder), *resume]
        ended = run_command([*command, *options], left - 1, folder / "gpu-stages.log")
        written = [path for path in folder.glob("cuda-*.json") if before.get(path) != path.stat().st_mtime]
        earlier, begun = begun, json.loads(written[0].read_text()).get("begun", []) if written else []
        if written and not begun:  # it came to its end
            break
        outcome = NOT_STARTED if ended.outcome == TIMED_OUT else ERROR if ended.outcome == PASSED else ended.outcome
        name = ", ".join(["benchmark", *begun[-1:]])
        findings.add(Finding(STAGE, name, outcome, ended.seconds, ended.detail or "it wrote nothing"))
        if len(begun) == len(earlier):
            break
        resume = ["--resume", str(written[0])]
    for path in written:
        add_rows(findings, path)


def add_rows(findings: Findings, path: Path) -> None:
    """The operators of a result: their microseconds, and how they compare."""
    for row in tables.rows_of(json.loads(path.read_text())):
        if row.ours:
            findings.add(finding_of(row))


def finding_of(row: Row) -> Finding:
    """One row of the benchmark."""
    name = f"{row.method} {row.size} {row.dtype}"
    if row.times is None:
        return Finding(STAGE, name, ERROR, detail=row.note)
    facts: dict[str, Any] = {"microseconds": 1e3 * row.times.median}
    if row.ratio is not None:
        facts["times_faster"] = row.ratio
    if row.bound is not None:
        facts["share_of_bound"] = row.bound / row.times.median
    return Finding(STAGE, name, MEASURED, detail=row.note, facts=facts)
