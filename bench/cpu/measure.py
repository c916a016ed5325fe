"""One row: the selection is judged, then timed, and every timed call must pick the same.

A shared processor is faster at one time than at another, so the operator is timed again after each of its peers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter

import torch
from torch import Tensor

from bench import gate
from bench.times import Times

from .cases import LAM, Task
from .implementations import OPERATOR, Select
from .rows import Row

SAMPLING_SECONDS, AGAIN_SECONDS = 1.0, 0.25
LEAST_ROUNDS, MOST_ROUNDS = 3, 50

Timer = Callable[[Select, int], list[float]]
"""From a call and a number of rounds to the seconds that each took."""


@dataclass(frozen=True)
class Measured:
    """A row, the picks of its calls, and the seconds that each timed one took."""

    row: Row
    picks: Tensor
    seconds: list[float]

    def add(self, results: list[Tensor], seconds: list[float]) -> None:
        """The picks and times of more calls."""
        row, ours = self.row, self.row.implementation == OPERATOR.name
        self.seconds.extend(seconds)
        if gate.changed(results, self.picks):
            row.correct, row.note = False, "the timed calls picked otherwise than the checked one"
        timed = bool(self.seconds) and (bool(row.correct) or not ours)
        row.times = Times.of([1e3 * each for each in self.seconds]) if timed else None


def rounds_for(seconds: float, sampling_seconds: float = SAMPLING_SECONDS) -> int:
    """How many calls to time, if one takes so many seconds."""
    return min(MOST_ROUNDS, max(LEAST_ROUNDS, int(sampling_seconds / max(seconds, 1e-9))))


def measure(row: Row, task: Task, select: Select, right: Tensor | None, timer: Timer) -> Measured:
    """Fills ``correct``, ``note`` and ``times``.

    Peers have a time right or wrong, since users run them either way; the operator has none for a wrong selection.
    ``right`` are picks already accepted: equal ones need no replay.
    """
    expected, seconds = _timed(select)
    if seconds < SAMPLING_SECONDS:
        seconds = _timed(select)[1]  # the first call also starts threads and fills caches
    judge(row, task, expected, right)
    measured = Measured(row, expected, [])
    if row.correct or row.implementation != OPERATOR.name:
        results: list[Tensor] = []
        measured.add(results, timer(lambda: results.append(select()), rounds_for(seconds)))
    return measured


def measure_again(measured: Measured, select: Select) -> None:
    """Adds calls to those of a row."""
    first = _timed(select)[1]  # after another implementation, caches hold what is not needed
    calls = [_timed(select) for _ in range(rounds_for(first, AGAIN_SECONDS))]
    measured.add([picks for picks, _ in calls], [seconds for _, seconds in calls])


def _timed(select: Select) -> tuple[Tensor, float]:
    start = perf_counter()
    picks = select()
    return picks, perf_counter() - start


def judge(row: Row, task: Task, picks: Tensor, right: Tensor | None) -> None:
    """Whether the picks are right, and what is wrong with them."""
    if right is None or not torch.equal(picks, right):
        row.note = gate.mistake(task.method, task.x, picks, task.k, task.weight, LAM)
    row.correct = not row.note
