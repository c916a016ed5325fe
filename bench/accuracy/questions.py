"""Questions about scenes, their answers, and how answers are scored.

Guessing is right on at most 30 % of any task. Of ``present`` it would be on half of the questions: as in MME's second
score, a scene's two questions, one to be answered with yes and one with no, count when both answers are right.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bench.accuracy.scenes import CELLS, ROWS, Scene, number_of

EMPTY = "nothing"


@dataclass(frozen=True)
class Question:
    """A question and its answer, in words with spaces between them."""

    task: str
    text: str
    answer: str


def asked(given: Scene) -> list[Question]:
    """The questions that are evaluated: one of each task, two of ``present``.

    What is asked for and absent has the colour of one thing that is there and the shape of another, where it can.
    """
    rng = np.random.default_rng([given.number, 2])
    cells = list(given.shapes)
    sought, there = (cells[rng.integers(len(cells))] for _ in range(2))
    absent = given.swapped or [given.absent]
    return [
        _read(given),
        _where(given, sought),
        _count(given, given.counted),
        _present(given, given.shapes[there]),
        _present(given, absent[rng.integers(len(absent))]),
    ]


def taught(given: Scene, rng: np.random.Generator) -> list[Question]:
    """The questions of one step of the training.

    They are those of the tasks, the digits of one row, and what is in a cell. The last two are not evaluated: they are
    steps on the way to reading, and of each scene there are too many to be learned by heart.
    """
    cells, every = list(given.shapes), list(given.things)
    words = sorted({word for pair in given.shapes.values() for word in pair.split()[1:]} | {given.counted})
    return [
        _read(given),
        _read_row(given, ROWS[rng.integers(len(ROWS))]),
        _where(given, cells[rng.integers(len(cells))]),
        _count(given, given.counted),
        _count(given, words[rng.integers(len(words))]),
        _present(given, given.shapes[cells[rng.integers(len(cells))]]),
        _present(given, given.absent),
        _at(given, every[rng.integers(len(every))]),
        _at(given, CELLS[rng.integers(len(CELLS))]),
    ]


def all_right(pairs: Sequence[tuple[str, str]]) -> float:
    """What the answers to a scene's questions of a task are worth, beside the right ones: 1 if all agree, else 0."""
    return float(all(answer == expected for answer, expected in pairs))


def read_share(answer: str, expected: str) -> float:
    """The share of digits that are read: one minus the edit distance over the longer of the two, as in ANLS."""
    ours, theirs = answer.split(), expected.split()
    distances = list(range(len(theirs) + 1))
    for i, word in enumerate(ours, 1):
        diagonal, distances[0] = distances[0], i
        for j, other in enumerate(theirs, 1):
            diagonal, distances[j] = (
                distances[j],
                min(diagonal + (word != other), distances[j - 1] + 1, distances[j] + 1),
            )
    return 1 - distances[-1] / max(len(ours), len(theirs), 1)


def _read(given: Scene) -> Question:
    return Question("read", "read the digits", " ".join(given.digits))


def _read_row(given: Scene, row: str) -> Question:
    digits = [thing for cell, thing in given.things.items() if cell.endswith(row) and " " not in thing]
    return Question("row", f"read the digits at {row}", " ".join(digits) or EMPTY)


def _where(given: Scene, cell: str) -> Question:
    return Question("where", f"where is the {given.things[cell]}", cell)


def _count(given: Scene, shape: str) -> Question:
    return Question("count", f"how many {shape}", str(number_of(shape, given.shapes.values())))


def _present(given: Scene, pair: str) -> Question:
    return Question("present", f"is there a {pair}", "yes" if pair in given.things.values() else "no")


def _at(given: Scene, cell: str) -> Question:
    return Question("at", f"what is at {cell}", given.things.get(cell, EMPTY))
