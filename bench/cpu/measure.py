"""One row: the selection is judged, then timed, and every timed call must pick the same."""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter

import torch
from torch import Tensor

from bench import gate
from bench.times import Times

from .cases import LAM, Task
from .implementations import OPERATOR, Select
from .rows import Row

SAMPLING_SECONDS = 1.0
LEAST_ROUNDS, MOST_ROUNDS = 3, 50

Timer = Callable[[Select, int], list[float]]
"""From a call and a number of rounds to the seconds that each took."""


def rounds_for(seconds: float) -> int:
    """How many calls to time, if one takes so many seconds."""
    return min(MOST_ROUNDS, max(LEAST_ROUNDS, int(SAMPLING_SECONDS / max(seconds, 1e-9))))


def measure(row: Row, task: Task, select: Select, right: Tensor | None, timer: Timer) -> Tensor:
    """Fills ``correct``, ``note`` and ``times``, and returns the picks.

    Peers have a time right or wrong, since users run them either way; the operator has none for a wrong selection.
    ``right`` are picks already accepted: equal ones need no replay.
    """
    expected, seconds = _timed(select)
    if seconds < SAMPLING_SECONDS:
        seconds = _timed(select)[1]  # the first call also starts threads and fills caches
    judge(row, task, expected, right)
    ours = row.implementation == OPERATOR.name
    if ours and not row.correct:
        return expected
    results: list[Tensor] = []
    samples = timer(lambda: results.append(select()), rounds_for(seconds))
    if gate.changed(results, expected):
        row.correct, row.note = False, "the timed calls picked otherwise than the checked one"
    if samples and (row.correct or not ours):
        row.times = Times.of([1e3 * seconds for seconds in samples])
    return expected


def _timed(select: Select) -> tuple[Tensor, float]:
    start = perf_counter()
    picks = select()
    return picks, perf_counter() - start


def judge(row: Row, task: Task, picks: Tensor, right: Tensor | None) -> None:
    """Whether the picks are right, and what is wrong with them."""
    if right is None or not torch.equal(picks, right):
        row.note = gate.mistake(task.method, task.x, picks, task.k, task.weight, LAM)
    row.correct = not row.note
