"""Pictures that were never drawn: some cells of one scene, the others of another.

A token says what is around it, so the tokens of a cell can take the place of those that another picture has there. The
steps of a training then see more scenes than were drawn. Half of the pictures stay as they are: few mixed ones have
three or four of one shape.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from bench.accuracy import scenes
from bench.accuracy.scenes import Scene

MIXED = 0.5
"""The share of pictures that are mixed."""
TRIES = 10


def mixed(given: Sequence[Scene], states: Tensor, rng: np.random.Generator) -> tuple[list[Scene], Tensor]:
    """Some of the scenes with cells of the next one, the last with cells of the first.

    Args:
        given: the scenes.
        states: hidden states of the tower for each, ``[B, places, 1 + side * side, D]``.
        rng: what cells are chosen by.

    Returns:
        The scenes, and their hidden states.
    """
    side = int((states.shape[2] - 1) ** 0.5)
    found, from_other = [], torch.zeros(len(given), states.shape[2], dtype=torch.bool)
    for row, scene in enumerate(given):
        other = given[(row + 1) % len(given)]
        made, taken = scene, np.zeros(len(scenes.CELLS), dtype=bool)
        for _ in range(TRIES if rng.random() < MIXED else 0):
            some = rng.random(len(scenes.CELLS)) < 0.5
            candidate = scenes.joined(scene, other, some.tolist(), rng)
            if candidate is not None:
                made, taken = candidate, some
                break
        found.append(made)
        from_other[row, 1:] = torch.from_numpy(taken)[scenes.cells_of_tokens(side)].flatten()
    return found, torch.where(from_other[:, None, :, None], states.roll(-1, 0), states)
