"""Profile: hardware counters of one launch of each kernel of a main call, read with ncu where it is there."""

from __future__ import annotations

import contextlib
import csv
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from bench.gpu.findings import ERROR, FAILURES, MEASURED, SKIPPED, Finding, Findings
from bench.gpu.process import run_command

STAGE = "profile"
# Form and rows of a call of DivPrune, and the kernels that it launches. A process for each: most of it is its start.
PROFILED = (
    ("materialised", 2_880, ("similarity_kernel", "greedy_kernel", "row_norm_kernel")),
    ("lazy_greedy", 16_384, ("lazy_greedy_kernel", "outlier_kernel")),
)
METRICS = {
    "gpu__time_duration.sum": "nanoseconds",
    "sm__throughput.avg.pct_of_peak_sustained_elapsed": "sm_percent",
    "dram__throughput.avg.pct_of_peak_sustained_elapsed": "dram_percent",
    "lts__throughput.avg.pct_of_peak_sustained_elapsed": "l2_percent",
    "sm__warps_active.avg.pct_of_peak_sustained_active": "occupancy_percent",
    "launch__registers_per_thread": "registers",
}


def run(findings: Findings, deadline: float, device: str) -> None:
    """Profiles each call of which a kernel is not settled."""
    ncu = profiler()
    if ncu is None:
        findings.add(Finding(STAGE, "ncu", SKIPPED, detail="ncu is not there"))
        return
    settled = findings.settled(STAGE)
    left = [each for each in PROFILED if not settled.issuperset(each[2])]
    for number, (form, count, kernels) in enumerate(left):
        if time.monotonic() < deadline - 5:
            seconds = (deadline - time.monotonic()) / (len(left) - number)
            profile(findings, ncu, form, count, kernels, seconds)


def profiler() -> str | None:
    """Where ncu is: on the path, or where its installer puts it."""
    installed = sorted(map(str, Path("/opt/nvidia/nsight-compute").glob("*")), reverse=True)
    folders = [os.environ.get("PATH", ""), "/usr/local/cuda/bin", *installed]
    return shutil.which("ncu", path=os.pathsep.join(folders))


def profile(findings: Findings, ncu: str, form: str, count: int, kernels: Sequence[str], seconds: float) -> None:
    """The kernels of one call. The clocks stay as they are."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.csv"
        command = [
            *(ncu, "--clock-control", "none", "--csv", "--log-file", str(report), "--metrics", ",".join(METRICS)),
            *("--profile-from-start", "off", "--kernel-name", f"regex:^({'|'.join(kernels)})$"),
            *(sys.executable, "-m", "bench.gpu.profiled", form, str(count)),
        ]
        ended = run_command(command, seconds, findings.path.parent / "gpu-stages.log")
        found = metrics_of(report)
    for kernel in kernels:
        facts = found.get(kernel, {})
        outcome = MEASURED if facts else ended.outcome if ended.outcome in FAILURES else ERROR
        detail = ended.detail if ended.detail or facts else "ncu has no counters of it"
        findings.add(Finding(STAGE, kernel, outcome, ended.seconds, detail, {"N": count, **facts} if facts else {}))


def metrics_of(report: Path) -> dict[str, dict[str, float]]:
    """The metrics in ncu's table, by kernel and by their short names; none where there is no table."""
    found: dict[str, dict[str, float]] = {}
    lines = [line for line in report.read_text().splitlines() if line.startswith('"')] if report.exists() else []
    for row in csv.DictReader(lines):
        name, value = METRICS.get(row.get("Metric Name", "")), row.get("Metric Value", "").replace(",", "")
        unit = {"us": 1e3, "usecond": 1e3, "ms": 1e6, "msecond": 1e6}.get(row.get("Metric Unit", ""), 1.0)
        with contextlib.suppress(ValueError):
            if name:
                found.setdefault(row["Kernel Name"].partition("(")[0], {})[name] = float(value) * unit
    return found
