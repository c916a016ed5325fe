"""Profile: hardware counters of one launch of each main kernel, read with ncu where it is there."""

from __future__ import annotations

import csv
import shutil
import sys
import time
from pathlib import Path

from bench.gpu.findings import ERROR, MEASURED, SKIPPED, Finding, Findings
from bench.gpu.process import run_command

STAGE = "profile"
# Kernel, method and form of a call that launches it, and the rows of the call.
PROFILED = (
    ("similarity_kernel", "divprune", "materialised", 2_880),
    ("greedy_kernel", "divprune", "materialised", 2_880),
    ("lazy_greedy_kernel", "divprune", "lazy_greedy", 16_384),
    ("outlier_kernel", "divprune", "lazy_greedy", 16_384),
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
    """Profiles each kernel that is not settled."""
    if shutil.which("ncu") is None:
        findings.add(Finding(STAGE, "ncu", SKIPPED, detail="ncu is not there"))
        return
    settled = findings.settled(STAGE)
    for kernel, method, form, count in PROFILED:
        if kernel not in settled and time.monotonic() < deadline - 5:
            profile(findings, kernel, (method, form, count), deadline)


def profile(findings: Findings, kernel: str, call: tuple[str, str, int], deadline: float) -> None:
    """One kernel. The clocks stay as they are."""
    folder = findings.path.parent
    report = folder / f".ncu-{kernel}.csv"
    method, form, count = call
    command = [
        *("ncu", "--clock-control", "none", "--csv", "--log-file", str(report), "--metrics", ",".join(METRICS)),
        *("--kernel-name", kernel, "--launch-skip", "1", "--launch-count", "1"),
        *(sys.executable, "-m", "bench.gpu.profiled", method, form, str(count)),
    ]
    ended = run_command(command, deadline - time.monotonic(), folder / "gpu-stages.log")
    facts = metrics_of(report)
    report.unlink(missing_ok=True)
    outcome = MEASURED if facts else ERROR
    findings.add(Finding(STAGE, kernel, outcome, ended.seconds, ended.detail, {"N": count, **facts} if facts else {}))


def metrics_of(report: Path) -> dict[str, float]:
    """The metrics in ncu's table, by their short names; none where there is no table."""
    if not report.exists():
        return {}
    lines = [line for line in report.read_text().splitlines() if line.startswith('"')]
    found = {}
    for row in csv.DictReader(lines):
        name, value = METRICS.get(row.get("Metric Name", "")), row.get("Metric Value", "").replace(",", "")
        if name:
            unit = {"us": 1e3, "usecond": 1e3, "ms": 1e6, "msecond": 1e6}.get(row.get("Metric Unit", ""), 1.0)
            try:
                found[name] = float(value) * unit
            except ValueError:
                continue
    return found
