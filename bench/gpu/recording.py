"""A pytest plugin for the stage `tests`: orders the tests, and writes down each one as it starts and as it ends.

A worker takes the tests that no finding settles, so that one which takes the place of a killed worker goes on behind
it. Broken is a device whose errors stay: then this process ends, and the next one goes on.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import pytest

from bench.gpu.findings import ERROR, MEASURED, PASSED, SKIPPED, WRONG, Finding, Findings
from bench.gpu.process import listen

STAGE = "tests"
FOLDER, WORKER, STARTED = "TOKENPRUNE_GPU_FOLDER", "TOKENPRUNE_GPU_WORKER", "TOKENPRUNE_GPU_STARTED"
BROKEN = 70
"""The exit code after a test that left the device broken."""

# What a test's name says of how much it would tell.
FIRST = (
    "similarities_are_one_function",
    "every_form_gives_the_same_bits",
    "recorded_call",
    "the_trace_is_right",
    "captured_graph",
    "nothing_waits",
    "lazy_greedy",
    "every_configuration",
    "side_by_side",
)
LAST = ("torch_compile", "memory_is_linear", "beyond", "hostile")
DEVICE_ERRORS = (
    "CUDA error",
    "illegal memory access",
    "device-side assert",
    "unspecified launch failure",
    "misaligned address",
)
ASSERTIONS = ("assert", "AssertionError", "Failed")
"""How a failure begins that is no error."""


def rank(node: str) -> int:
    """Where a test comes: those of what only a GPU can show first, those that take long last."""
    for place, words in enumerate(FIRST):
        if words in node:
            return place
    if any(words in node for words in LAST):
        return len(FIRST) + 2
    return len(FIRST) + (0 if "test_gpu.py" in node else 1)


class Recorder:
    """Records the tests of one worker.

    Args:
        findings: where outcomes go.
        started: a file that names the test that runs, the kernel that it compiled last, and when it began or did so.
        worker: its number, and how many there are.
    """

    def __init__(self, findings: Findings, started: Path, worker: tuple[int, int]) -> None:
        self.findings, self.started, self.worker = findings, started, worker
        self.reports: list[pytest.TestReport] = []

    @pytest.hookimpl(trylast=True)  # when the marks have deselected theirs
    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        number, workers = self.worker
        if number == 0:
            self.findings.add(Finding(STAGE, "selected", MEASURED, facts={"tests": len(items)}))
        mine = sorted(items, key=lambda item: rank(item.nodeid))[number::workers]
        settled = self.findings.settled(STAGE)
        chosen = [item for item in mine if item.nodeid not in settled]
        kept = set(chosen)
        config.hook.pytest_deselected(items=[item for item in items if item not in kept])
        items[:] = chosen

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed and self.worker[0] == 0:
            self.findings.add(Finding(STAGE, report.nodeid, ERROR, detail=said(report.longreprtext)))

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self.reports = []

        def write(kernel: str) -> None:
            self.started.write_text(f"{time.time()} {kernel} {nodeid}")

        write("-")
        if "triton" in sys.modules:
            listen(write)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.reports.append(report)

    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        seconds = sum(report.duration for report in self.reports)
        failed = next((report for report in self.reports if report.failed), None)
        detail = said(failed.longreprtext) if failed else ""
        if failed:
            broken = any(words in failed.longreprtext for words in DEVICE_ERRORS)
            asserted = failed.when == "call" and detail.startswith(ASSERTIONS)
            outcome = WRONG if asserted and not broken else ERROR
        else:
            broken, outcome = False, SKIPPED if any(report.skipped for report in self.reports) else PASSED
        self.findings.add(Finding(STAGE, nodeid, outcome, seconds, detail))
        self.started.write_text("")
        if broken:
            os._exit(BROKEN)
        if "torch" in sys.modules and sys.modules["torch"].cuda.is_initialized():
            sys.modules["torch"].cuda.empty_cache()  # the workers share the memory


def said(text: str) -> str:
    """The lines of a failure that say what is wrong, in one."""
    lines = [line[1:].strip() for line in text.splitlines() if line.startswith("E ")]
    return "; ".join(filter(None, lines or text.strip().splitlines()[-1:]))[:300]


def pytest_configure(config: pytest.Config) -> None:
    """Registers the recorder, with what the environment says."""
    number, _, workers = os.environ[WORKER].partition("/")
    findings = Findings(Path(os.environ[FOLDER]))
    config.pluginmanager.register(Recorder(findings, Path(os.environ[STARTED]), (int(number), int(workers))))
