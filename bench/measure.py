"""The rows of a case: a selection is judged, then timed, and every timed call must pick the same.

A shared processor is faster at one time than at another, so a device may have the operator timed again after each of
its peers.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from bench import judge
from bench.budget import Budget
from bench.cases import Case, Task, task
from bench.files import described
from bench.peers import OPERATOR, Implementation, Select
from bench.row import Row
from bench.run_with_timeout import run_with_timeout
from bench.times import Times

Result = Tensor | list[Tensor]


class Device(Protocol):
    """A timer, and what only this device knows."""

    name: str
    type: str
    """Of tensors."""
    cases_before_compiled: int
    """After so many cases come the peers that have to be compiled."""

    again_seconds: float
    """How long the operator is timed again after each peer; 0 where nothing else runs on the device."""

    compilation_seconds: float
    """How long a peer may be compiled and run."""

    def peers(self) -> Iterable[Implementation]:
        """What the operator is compared with."""

    def ways(self, implementation: Implementation) -> tuple[str, ...]:
        """How it is called."""

    def time(
        self, select: Select, x: Tensor, how: str, seconds: float | None = None
    ) -> tuple[list[Result], list[float]]:
        """Calls for about ``seconds``.

        Returns:
            Results, among them the first, and the milliseconds of each timed call.
        """

    def explain(self, row: Row, given: Task, select: Select) -> None:
        """Adds to the row of a right operator what only this device measures."""


@dataclass
class Runs:
    """The calls of one implementation: the picks that all have to make, and the milliseconds that each took."""

    row: Row
    picks: list[Tensor]
    milliseconds: list[float] = field(default_factory=list)

    def add(self, selections: Iterable[list[Tensor]], milliseconds: list[float]) -> None:
        """More calls. Peers have a time right or wrong, as users run them either way; a wrong operator has none."""
        row = self.row
        self.milliseconds += milliseconds
        if not all(judge.same(picks, self.picks) for picks in selections):
            row.correct, row.note = False, "the timed calls picked otherwise than the checked one"
        timed = bool(self.milliseconds) and (row.correct is not False or not row.ours)
        row.times = Times.of(self.milliseconds) if timed else None


class Benchmark:
    """The rows of a run, and what is left of its time."""

    def __init__(self, device: Device, budget: Budget, report: Callable[[str], None] = lambda name: None) -> None:
        self.device = device
        self.budget = budget
        self.report = report
        self.rows: list[Row] = []
        self.begun: list[str] = []
        self.not_started: list[str] = []

    def start(self, name: str) -> bool:
        """Whether there is time for one more measurement."""
        if self.budget.left() <= 0:
            self.not_started.append(name)
            return False
        self.report(name)
        return True

    def measure(self, case: Case) -> None:
        """The operator on a case, then its peers, without those that are to be compiled."""
        peers = [peer for peer in self.device.peers() if peer.applies(case) and not peer.compiled]
        runs: dict[str, Runs] = {}
        for implementation in (OPERATOR, *peers):
            for how in self.device.ways(implementation):
                if self.start(f"{implementation.name} on {case}"):
                    self.measure_one(case, implementation, how, runs)

    def measure_compiled(self, case: Case) -> None:
        """The peers of a case that are to be compiled."""
        for peer in self.device.peers():
            if peer.compiled and peer.applies(case):
                self.measure_apart(case, peer)

    def measure_one(self, case: Case, implementation: Implementation, how: str, runs: dict[str, Runs]) -> None:
        """One row. ``runs`` are those so far on this case, by the names of the rows."""
        row = Row.on(case, implementation.name, how)
        self.rows.append(row)
        row.note = implementation.left_out(case)
        if row.note:
            return
        try:
            given = task(case, self.device.type)
            select = implementation.prepare(given)
            made = self._run(row, given, implementation, select, runs)
            if row.ours and row.times is not None:
                self.device.explain(row, given, select)
        except Exception as error:
            row.times, row.correct, row.note = None, None, described(error)
            return
        operator = next((each for each in runs.values() if each.row.ours and each.row.times), None)
        if operator and not row.ours and self.device.again_seconds:
            select = OPERATOR.prepare(given)
            results, milliseconds = self.device.time(select, given.x, operator.row.how, self.device.again_seconds)
            operator.add(map(case.tokens.picks, results), milliseconds)
        runs[row.name] = made

    def _run(
        self, row: Row, given: Task, implementation: Implementation, select: Select, runs: dict[str, Runs]
    ) -> Runs:
        results, milliseconds = self.device.time(select, given.x, row.how)
        if not implementation.selects:
            made = Runs(row, [])
            made.add([], milliseconds)
            return made
        selections = [given.tokens.picks(result) for result in results]
        made = Runs(row, selections[0])
        # Picks that have been judged already need no second replay.
        judged = next((each.row for each in runs.values() if judge.same(each.picks, made.picks)), None)
        if judged:
            row.correct, row.note = judged.correct, judged.note
        else:
            row.note = judge.mistake_of_items(given.method, given.tokens, given.x, made.picks, given.weight)
            row.correct = not row.note
        made.add(selections, milliseconds)
        return made

    def measure_apart(self, case: Case, implementation: Implementation) -> None:
        """The rows of a peer from a process of its own, which is stopped when it takes too long."""
        if not self.start(f"{implementation.name} on {case}"):
            return
        seconds = min(self.device.compilation_seconds, self.budget.left())
        command = [sys.executable, "-m", "bench", self.device.name, "--apart", str(case), implementation.name]
        try:
            rows = json.loads(run_with_timeout(seconds, command).splitlines()[-1])
            self.rows += [Row.read(row) for row in rows]
        except (subprocess.SubprocessError, OSError, ValueError, IndexError) as error:
            row = Row.on(case, implementation.name)
            timeout = isinstance(error, subprocess.TimeoutExpired)
            row.note = f"not compiled within {seconds:.0f} s" if timeout else described(error)
            self.rows.append(row)

    def measure_here(self, case: Case, name: str) -> None:
        """The rows of a peer that is to be compiled, in this process."""
        implementation = next(peer for peer in self.device.peers() if peer.name == name)
        for how in self.device.ways(implementation):
            self.measure_one(case, implementation, how, {})
            breaks = torch._dynamo.utils.counters["graph_break"]
            row = self.rows[-1]
            if breaks and not row.note:
                row.note = f"not compiled as a whole: {next(iter(breaks)).splitlines()[0]}"
