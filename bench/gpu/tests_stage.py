"""Tests: those marked `gpu`, by workers under watch. A hang is killed and named, a crash is named, others go on."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bench.files import ROOT
from bench.gpu import recording
from bench.gpu.findings import CRASHED, ERROR, NOT_STARTED, TIMED_OUT, Finding, Findings
from bench.gpu.process import kill, run_command

STAGE = recording.STAGE
EACH_SECONDS = 40.0
"""From the start of a test, or from the last kernel that it compiled."""

STACK_SECONDS = 30.0
"""After this long, a test writes its stack to the log."""

BUILD_SECONDS = 90.0
START_SECONDS = 60.0
"""From the start of a worker to its first test."""

WORKERS = 8
"""Processes that share the device, because compiling takes longer than running. A kernel that hangs in one of them
slows down the others until it is killed.
"""

SELECTION = ("tests/triton", "tests/operators", "tests/distributed", "-m", "gpu and not slow")
POLL_SECONDS = 0.1
MOST_RESTARTS = 12
"""Of a worker. More of them would tell nothing new."""


def run(findings: Findings, deadline: float, device: str) -> None:
    """Builds the extension, which some tests compare with, then runs the tests that are not settled."""
    log = findings.path.parent / "gpu-stages.log"
    if not is_built(ROOT):
        seconds = min(BUILD_SECONDS, (deadline - time.monotonic()) / 2)
        built = run_command([sys.executable, "setup.py", "-q", "build_ext", "--inplace"], seconds, log)
        findings.add(Finding(STAGE, "build of the CPU extension", built.outcome, built.seconds, built.detail))
    run_tests(findings, SELECTION, deadline, log)


def is_built(root: Path) -> bool:
    """Whether the CPU extension is there, and no older than what it is made from: it may have been carried along."""
    extension = root / "tokenprune_kernels" / "_C.abi3.so"
    sources = [root / "setup.py", root / "tokenprune_kernels" / "declaration.py", *(root / "csrc").rglob("*.*")]
    return extension.exists() and all(each.stat().st_mtime <= extension.stat().st_mtime for each in sources)


def run_tests(
    findings: Findings,
    selection: Sequence[str],
    deadline: float,
    log: Path,
    *,
    workers: int = WORKERS,
    seconds: float = EACH_SECONDS,
    root: Path = ROOT,
) -> None:
    """Runs the selected tests in workers, each of which is started again behind a test that ended it."""
    findings.path.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output, tempfile.TemporaryDirectory() as folder:
        team = [
            Worker(findings, selection, Path(folder) / str(number), number, workers, seconds, root)
            for number in range(workers)
        ]
        for worker in team:
            worker.start(output)
        while any(worker.process for worker in team):
            if time.monotonic() >= deadline:
                for worker in team:
                    worker.stop(NOT_STARTED, "no time was left")
                break
            for worker in team:
                worker.watch(output)
            time.sleep(POLL_SECONDS)


@dataclass
class Worker:
    """A pytest process, and those that take its place."""

    findings: Findings
    selection: Sequence[str]
    started_file: Path
    number: int
    workers: int
    seconds: float
    root: Path
    process: subprocess.Popen[bytes] | None = None
    restarts: int = 0
    born: float = field(default=0.0)

    def start(self, output: object) -> None:
        """Starts the process, in the group of this one, so that both are killed together."""
        environment = {
            recording.FOLDER: str(self.findings.path.parent.resolve()),
            recording.WORKER: f"{self.number}/{self.workers}",
            recording.STARTED: str(self.started_file),
            "OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // self.workers)),
            "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]),
        }
        self.started_file.write_text("")
        self.born = time.time()
        options = ("-p", "bench.gpu.recording", "-q", "--tb=short", "-p", "no:cacheprovider")
        options += ("-o", f"faulthandler_timeout={min(STACK_SECONDS, self.seconds / 2)}")
        # A file that cannot be imported there, and plugins that the tests do without, cost no other test.
        options += ("--continue-on-collection-errors", "-o", "addopts=")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "pytest", *options, *self.selection],
            stdout=output,  # type: ignore[call-overload]
            stderr=subprocess.STDOUT,
            cwd=self.root,
            env={**os.environ, **environment},
        )

    def running(self) -> tuple[float, str, str]:
        """Since when the current test runs or has its last kernel, its name, and that kernel, in words.

        Between tests, the start of the process, and nothing.
        """
        since, kernel, name = [*self.started_file.read_text().split(" ", 2), "", ""][:3]
        if not name:
            return self.born, "", ""
        return float(since), name, "" if kernel == "-" else f", last kernel {kernel}"

    def watch(self, output: object) -> None:
        """Kills a process whose test takes too long, and starts another where one ended in the middle."""
        if self.process is None:
            return
        code, (since, name, kernel) = self.process.poll(), self.running()
        limit = self.seconds if name else START_SECONDS
        if code is None:
            if not name:
                since = max(since, self.started_file.stat().st_mtime)
            if time.time() - since < limit:
                return
            self.stop(TIMED_OUT, f"killed after {limit:.0f} s{kernel}")
        elif name:
            detail = f"{f'signal {-code}' if code < 0 else f'exit code {code}'}{kernel}"
            self.findings.add(Finding(STAGE, name, CRASHED, time.time() - since, detail))
        elif code in (0, 1, 5):  # all is well, tests failed, or there are none left
            self.process = None
            return
        elif code != recording.BROKEN:
            self.findings.add(Finding(STAGE, f"worker {self.number}", ERROR, detail=f"pytest: exit code {code}"))
            self.process = None
            return
        self.restarts += 1
        self.process = None
        if self.restarts <= MOST_RESTARTS:
            self.start(output)

    def stop(self, outcome: str, detail: str) -> None:
        """Kills the process and settles its test."""
        if self.process is None:
            return
        since, name, _ = self.running()
        if not kill(self.process):
            detail = f"{detail}, and does not end"
        self.process = None
        self.findings.add(Finding(STAGE, name or f"worker {self.number}", outcome, time.time() - since, detail))
