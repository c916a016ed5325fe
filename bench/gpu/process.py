"""Processes that may hang or crash. Each has a limit, and how it ended has a name."""

from __future__ import annotations

import contextlib
import faulthandler
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import defaultdict, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from bench.files import ROOT, described
from bench.gpu.findings import CRASHED, ERROR, NOT_STARTED, PASSED, TIMED_OUT, WRONG

UNKILLABLE_SECONDS = 3.0
"""How long a killed process may take to end. One that waits for a driver may never end, and is left behind."""

_FORK = multiprocessing.get_context("fork")


STACK_SECONDS = 0.5
"""How long before the end of its time a check notes where it is."""


class WrongResultError(Exception):
    """A check ran to its end, and its result is wrong.

    Args:
        message: what is wrong.
        facts: those of the check.
    """

    def __init__(self, message: str, facts: dict[str, Any] | None = None) -> None:
        super().__init__(message)
        self.facts = facts or {}


@dataclass(frozen=True)
class Ended:
    """How a process ended."""

    outcome: str
    seconds: float = 0.0
    detail: str = ""
    facts: dict[str, Any] = field(default_factory=dict)


def run_command(
    command: Sequence[str], seconds: float, log: Path, environment: Mapping[str, str] | None = None
) -> Ended:
    """Runs a command, and kills it and its descendants when the time is over. Its output is appended to the log."""
    log.parent.mkdir(parents=True, exist_ok=True)
    start = time.monotonic()
    with log.open("ab") as output:
        try:
            process = subprocess.Popen(
                command,
                stdout=output,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                cwd=ROOT,
                start_new_session=True,
                env=None if environment is None else {**os.environ, **environment},
            )
        except OSError as error:
            return Ended(ERROR, 0.0, described(error))
        try:
            code = process.wait(max(0.0, seconds))
        except subprocess.TimeoutExpired:
            return Ended(TIMED_OUT, time.monotonic() - start, f"killed after {seconds:.0f} s")
        finally:
            kill(process)
            with contextlib.suppress(OSError):
                os.killpg(process.pid, signal.SIGKILL)  # what outlived its parent
    taken = time.monotonic() - start
    if code < 0:
        return Ended(CRASHED, taken, _signal_name(-code))
    return Ended(PASSED, taken) if code == 0 else Ended(ERROR, taken, f"exit code {code}")


def kill(process: subprocess.Popen[Any]) -> bool:
    """Kills a process and its descendants, those in sessions of their own too. Returns whether it ended."""
    if process.poll() is None:
        kill_tree(process.pid)
    try:
        process.wait(UNKILLABLE_SECONDS)
    except subprocess.TimeoutExpired:
        return False
    return True


def kill_tree(root: int) -> None:
    """Kills a process that has not been waited for, and its descendants."""
    children = defaultdict(list)
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            parent = stat.read_text().rpartition(")")[2].split()[1]
            children[int(parent)].append(int(stat.parent.name))
    tree = [root]
    for each in tree:
        tree += children[each]
        with contextlib.suppress(ProcessLookupError):
            os.kill(each, signal.SIGKILL)


def run_forked(
    checks: Mapping[str, Callable[[], Any]],
    seconds: float,
    report: Callable[[str, Ended], None],
    *,
    deadline: float = float("inf"),
    side_by_side: int = 1,
) -> None:
    """Runs each check in a fork of this process, which must not have used the device.

    Args:
        checks: by name. What one returns, a dictionary, becomes the facts. `WrongResultError` and other exceptions are
            reported.
        seconds: the limit of each.
        report: called with each check's end, at once.
        deadline: of all, on the clock of `time.monotonic`. Checks beyond it, and those that it cuts short, are reported
            as not started.
        side_by_side: how many run at a time.
    """
    waiting, running = deque(checks.items()), {}
    while waiting or running:
        now = time.monotonic()
        while waiting and len(running) < side_by_side:
            name, check = waiting.popleft()
            if now >= deadline:
                report(name, Ended(NOT_STARTED, 0.0, "no time was left"))
                continue
            fork = _Fork(name, check, now + seconds, deadline)
            running[fork.connection] = fork
        if not running:
            continue
        first = min(fork.end for fork in running.values())
        ready = wait(list(running), max(0.0, first - time.monotonic()))
        late = [connection for connection, fork in running.items() if fork.end <= time.monotonic()]
        for connection in {*ready, *late}:
            fork = running.pop(connection)
            report(fork.name, fork.ended(answered=connection in ready))


class _Fork:
    def __init__(self, name: str, check: Callable[[], Any], end: float, deadline: float) -> None:
        self.name, self.start = name, time.monotonic()
        self.end, self.deadline, self.is_cut_short = min(end, deadline), deadline, deadline < end
        self.connection, theirs = _FORK.Pipe(duplex=False)
        self.notes = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115  closed when the check has ended
        left = max(0.01, self.end - self.start - STACK_SECONDS)
        self.process = _FORK.Process(target=_child, args=(name, check, theirs, self.notes, left))
        self.process.start()
        theirs.close()

    def ended(self, *, answered: bool) -> Ended:
        taken = time.monotonic() - self.start
        try:
            outcome, detail, facts = self.connection.recv() if answered else (TIMED_OUT, "", {})
        except EOFError:
            self.process.join(UNKILLABLE_SECONDS)
            code = self.process.exitcode or 0
            outcome, detail, facts = CRASHED, _signal_name(-code) if code < 0 else f"exit code {code}", {}
        if outcome == TIMED_OUT and self.is_cut_short:
            outcome, detail = NOT_STARTED, f"cut short after {taken:.0f} s"
        elif outcome == TIMED_OUT:
            detail = f"killed after {self.end - self.start:.0f} s"
        if outcome not in (PASSED, WRONG):
            detail = ", ".join([detail, *_noted(self.notes)])
        self.connection.close()
        self.notes.close()
        # The answer is all there is to wait for: a broken device may keep the process from ending.
        if self.process.exitcode is None:
            kill_tree(self.process.pid)
        self.process.join(max(0.0, min(UNKILLABLE_SECONDS, self.deadline - time.monotonic())))
        return Ended(outcome, taken, detail, facts)


def _child(name: str, check: Callable[[], Any], connection: Connection, notes: Any, seconds: float) -> None:
    faulthandler.enable(2)  # the stack of a crash goes to the log
    faulthandler.dump_traceback_later(seconds, file=notes)
    if "triton" in sys.modules:
        listen(lambda kernel: notes.write(f"kernel {kernel}\n".encode()))
    try:
        answer = (PASSED, "", check() or {})
    except WrongResultError as error:
        answer = (WRONG, str(error), error.facts)
    except BaseException as error:
        answer = (ERROR, described(error), {})
        print(f"{name}:\n{traceback.format_exc()}", file=sys.stderr, flush=True)
    connection.send(answer)
    os._exit(0)  # a broken device may keep an orderly exit from ending


def listen(report: Callable[[str], object]) -> None:
    """Has Triton report the name of each kernel that it has compiled or found in its cache, before it is launched."""
    from triton import knobs

    knobs.compilation.listener = lambda *, src, **others: report(src.name)


def _noted(notes: Any) -> list[str]:
    """The kernel that a check launched first last, and the function that it was in when its time was over."""
    notes.seek(0)
    text = notes.read().decode(errors="replace")
    kernels, stacks = re.findall(r"^kernel (.+)$", text, re.M), text.split("(most recent call first):")
    frame = re.search(r'File ".*?([^/"]+)", line (\d+) in (\S+)', stacks[-1]) if len(stacks) > 1 else None
    said = [f"last kernel {kernels[-1]}"] if kernels else []
    return said + ([f"in {frame[3]} ({frame[1]}:{frame[2]})"] if frame else [])


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
