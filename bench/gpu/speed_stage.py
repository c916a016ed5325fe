"""Speed: the benchmark, in a process of its own, which writes its table after each case."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

from bench import tables
from bench.gpu.findings import ERROR, MEASURED, Finding, Findings
from bench.gpu.process import run_command
from bench.row import Row

STAGE = "speed"


def run(findings: Findings, deadline: float, device: str) -> None:
    """Runs the benchmark within the time that is left, then adds what it wrote."""
    folder = findings.path.parent
    compile_ahead(findings, deadline)
    seconds = deadline - time.monotonic()
    # Its last case may take longer than the budget that it has to start cases.
    command = [sys.executable, "-m", "bench", "cuda", "--budget", f"{0.8 * seconds:.0f}", "--results", str(folder)]
    before = {path: path.stat().st_mtime for path in folder.glob("cuda-*.json")}
    ended = run_command(command, seconds - 1, folder / "gpu-stages.log")
    written = [path for path in folder.glob("cuda-*.json") if before.get(path) != path.stat().st_mtime]
    for path in written:
        add_rows(findings, path)
    if not written:
        findings.add(Finding(STAGE, "benchmark", ERROR, ended.seconds, ended.detail or "it wrote nothing"))


def compile_ahead(findings: Findings, deadline: float) -> None:
    """Compiles for the main shapes, as many at a time as there are processors."""
    from bench.gpu import ahead, calls, machine

    half = (time.monotonic() + deadline) / 2
    seconds = ahead.compile_all(calls.main_calls(), machine.architecture(), half)
    findings.add(Finding(STAGE, "compiled ahead", MEASURED, seconds))


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
