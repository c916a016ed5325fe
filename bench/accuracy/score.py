"""Scores of answers, with intervals by bootstrap over the scenes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.accuracy import evaluate, questions
from bench.accuracy.evaluate import Cell
from bench.accuracy.methods import DOWNSAMPLED, PRUMERGE, PRUMERGE_RANDOM, RANDOM, UNPRUNED, Method
from bench.accuracy.questions import Question
from bench.accuracy.settings import TASKS, Settings

SEED = 3
INTERVAL = (2.5, 97.5)
"""Percentiles."""
ALL, READ_SHARE = "all", "digits read"
"""The mean over the tasks, and the share of the digits, which is in no mean."""
MISREAD = ("too few digits", "too many digits", "other digits")
"""What is wrong with lines of digits that are not read."""
Scores = dict[str, NDArray[np.float64]]
"""Of each task, and those two: a number for each scene."""


def scores(answers: Sequence[Sequence[str]], given: Sequence[Sequence[Question]]) -> Scores:
    """The scores of the answers to each scene's questions."""
    made: dict[str, list[float]] = {task: [] for task in (*TASKS, READ_SHARE)}
    for ours, asked in zip(answers, given, strict=True):
        for task in TASKS:
            places = [place for place, question in enumerate(asked) if question.task == task]
            pairs = [(ours[place], asked[place].answer) for place in places]
            made[task].append(questions.all_right(pairs))
            if task == "read":
                made[READ_SHARE].append(questions.read_share(*pairs[0]))
    found = {task: np.array(each) for task, each in made.items()}
    return found | {ALL: np.mean([found[task] for task in TASKS], axis=0)}


def misread(answers: Sequence[Sequence[str]], given: Sequence[Sequence[Question]]) -> list[float]:
    """The shares of scenes whose line of digits is wrong, one for each of ``MISREAD``."""
    counts = [0, 0, 0]
    for ours, asked in zip(answers, given, strict=True):
        place = next(place for place, question in enumerate(asked) if question.task == "read")
        found, expected = ours[place].split(), asked[place].answer.split()
        if found != expected:
            more = len(found) - len(expected)
            counts[0 if more < 0 else 1 if more > 0 else 2] += 1
    return [count / len(given) for count in counts]


class Bootstrap:
    """Resamples of the scenes, the same for everything that is compared."""

    def __init__(self, scenes: int, resamples: int) -> None:
        rng = np.random.default_rng(SEED)
        self._weights = rng.multinomial(scenes, np.full(scenes, 1 / scenes), size=resamples) / scenes

    def interval(self, values: NDArray[np.float64]) -> list[float]:
        """The mean, and its 95 % interval."""
        low, high = np.percentile(self._weights @ values, INTERVAL)
        return [round(float(each), 4) for each in (values.mean(), low, high)]


def summarised(settings: Settings, found: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """A row for each method and share: scores, and differences from what it is compared with."""
    given = evaluate.asked(settings)
    bootstrap = Bootstrap(len(given), settings.resamples)
    every: dict[tuple[str, float], list[Cell]] = {}
    for cell in evaluate.cells(settings):
        every.setdefault((cell.method.name, cell.ratio), []).append(cell)
    by_seed = {key: [scores(found[cell.name]["answers"], given) for cell in group] for key, group in every.items()}
    lines = {key: [misread(found[cell.name]["answers"], given) for cell in group] for key, group in every.items()}
    means = {
        key: {task: np.mean([each[task] for each in group], axis=0) for task in group[0]}
        for key, group in by_seed.items()
    }
    rows = []
    for (name, ratio), group in every.items():
        own = means[name, ratio]
        answers = [found[cell.name]["answers"] for cell in group]
        method = group[0].method
        row = {
            "method": name,
            "ratio": ratio,
            "tokens": round(float(np.mean([found[cell.name]["tokens"] for cell in group])), 2),
            "scores": {task: bootstrap.interval(values) for task, values in own.items()},
            "minus": {
                other: {task: bootstrap.interval(own[task] - theirs[task]) for task in own}
                for other, theirs in _others(means, method, ratio).items()
            },
            "misread": [round(float(each), 4) for each in np.mean(lines[name, ratio], axis=0)],
        }
        if len(group) > 1:
            overall = [float(each[ALL].mean()) for each in by_seed[name, ratio]]
            row["seeds"] = {"count": len(group), "least": round(min(overall), 4), "most": round(max(overall), 4)}
        if method.instead_of is not None:
            same = found[Cell(_named(settings, method.instead_of), ratio).name]["answers"]
            pairs = [
                pair for ours, theirs in zip(answers[0], same, strict=True) for pair in zip(ours, theirs, strict=True)
            ]
            row["instead_of"] = method.instead_of
            row["answers_that_differ"] = sum(ours != theirs for ours, theirs in pairs)
            row["answers"] = len(pairs)
        rows.append(row)
    return rows


def _others(means: dict[tuple[str, float], Scores], method: Method, ratio: float) -> dict[str, Scores]:
    """What a row is compared with: the unpruned model, and at its share random choice, downsampling, its operator."""
    own = [RANDOM, DOWNSAMPLED, method.instead_of, PRUMERGE_RANDOM if method.name == PRUMERGE else None]
    others = {other: means[other, ratio] for other in own if other is not None and (other, ratio) in means}
    others[UNPRUNED] = means[UNPRUNED, 1.0]
    return {other: theirs for other, theirs in others.items() if other != method.name}


def _named(settings: Settings, name: str) -> Any:
    return next(cell.method for cell in evaluate.cells(settings) if cell.method.name == name)
