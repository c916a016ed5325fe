"""How many of the kept tokens lie in cells with digits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from bench.accuracy import evaluate, model, scenes
from bench.accuracy.features import HELD_OUT, chunks, opened
from bench.accuracy.methods import DIVPRUNE, RANDOM, UNIFORM, UNPRUNED, Method, methods
from bench.accuracy.settings import Settings

METHODS = (
    UNPRUNED,
    DIVPRUNE,
    "IDPruner, class attention",
    "IDPruner, norm",
    "top k by class attention",
    UNIFORM,
    RANDOM,
)
RATIOS = (0.5, 0.25)


def tokens_on_digits(given: scenes.Scene, side: int) -> NDArray[np.bool_]:
    """Which tokens of a picture lie in a cell with a digit, ``[side * side]``."""
    there = np.array([given.things.get(cell, "").isdigit() for cell in scenes.CELLS])
    return there[scenes.cells_of_tokens(side).flatten()]


@torch.no_grad()
def shares(settings: Settings, folder: Path) -> dict[str, list[float]]:
    """The share of the kept tokens, averaged over the held-out scenes, of each method at each of ``RATIOS``."""
    made, store = model.load(folder / "checkpoint"), opened(settings, folder)[HELD_OUT]
    made.model.vision_tower = model.CachedTower(made.model.vision_tower, store)
    given, part = evaluate.asked(settings), store.part
    digits = [tokens_on_digits(part.scene(number), part.width) for number in range(part.count)]
    by_name = {method.name: method for method in reversed(methods(settings))}  # of random choice, the first seed

    def share(method: Method, ratio: float) -> float:
        each = []
        for numbers in chunks(range(part.count), evaluate.CHUNK):
            inputs = model.inputs([given[number][0].text for number in numbers], numbers, part.tokens)
            ready: Any = method.prepare(made, inputs, ratio)
            kept = [slice(None)] * len(numbers) if method.name == UNPRUNED else ready.kept_indices
            each += [float(digits[number][rows].mean()) for number, rows in zip(numbers, kept, strict=True)]
        return round(float(np.mean(each)), 4)

    return {name: [share(by_name[name], ratio) for ratio in RATIOS] for name in METHODS}
