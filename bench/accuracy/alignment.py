"""The first training, of projector and word embeddings: each visual token names what its cell of the scene holds.

LLaVA aligns its projector with captions. Here every token has a caption of its own: the words of what is in the cell
around it, "nothing" where that is empty, and of the cell itself. They are words of the decoder's vocabulary: the token
is to point towards their embeddings, which are trained beside it.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from bench.accuracy import model, questions, scenes, words
from bench.accuracy.features import opened, training
from bench.accuracy.scenes import Scene
from bench.accuracy.settings import Settings
from bench.accuracy.standard import Standard
from bench.accuracy.steps import Steps

SEED = 9
SHARPNESS = 16.0
"""What cosines are multiplied by before their softmax."""
LEARNING_RATE, WEIGHT_DECAY = 2e-3, 0.02
PARAMETERS = ("model.multi_modal_projector.", "model.language_model.embed_tokens.")


def named(given: Scene, side: int) -> Tensor:
    """What each token is to name, the words of its cell in equal shares, ``[side * side, words]``.

    Args:
        given: the scene.
        side: its tokens in height and width.
    """
    shares = torch.zeros(len(scenes.CELLS), len(words.WORDS))
    for number, cell in enumerate(scenes.CELLS):
        there = words.encode(f"{cell} {given.things.get(cell, questions.EMPTY)}")
        shares[number, there] = 1 / len(there)
    return shares[torch.from_numpy(scenes.cells_of_tokens(side)).flatten()]


class Alignment(Steps):
    """The alignment up to some step, in a folder; it changes the model that it is given."""

    what = "alignment"

    def __init__(self, settings: Settings, folder: Path, made: Any, standard: Standard) -> None:
        self.standard = standard
        self.store = opened(settings, folder)[training(settings.side)]
        self.model = made
        every = model.trained_parameters(made)
        parameters = {name: each for name, each in every.items() if name.startswith(PARAMETERS)}
        super().__init__(settings, folder / "alignment.pt", settings.alignment_steps, parameters, WEIGHT_DECAY)
        self.mixed = False  # the loss below does not use `products`

    def rate(self) -> float:
        return LEARNING_RATE * 0.5 * (1 + math.cos(math.pi * self.step / self.total))

    def loss(self) -> Tensor:
        part, settings = self.store.part, self.settings
        rng = np.random.default_rng([SEED, self.step])
        numbers = rng.choice(settings.training_scenes[0][1], settings.alignment_batch, replace=False).tolist()
        shares = torch.stack([named(part.scene(number), part.width) for number in numbers])
        tokens = self.model.model.multi_modal_projector(self.standard(self.store.read(numbers)))
        cosines = F.normalize(tokens, dim=-1) @ F.normalize(self.model.get_input_embeddings().weight, dim=-1).T
        return F.cross_entropy((SHARPNESS * cosines).flatten(0, 1), shares.flatten(0, 1))
