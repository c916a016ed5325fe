"""The training of VisionSelector's scorer on the trained model, whose own weights stay as they are.

As in its paper (arXiv 2510.16598, section 3), a soft choice of k tokens stands for the hard one: each visual token has
a share between 0 and 1, the sigmoid of its score above a threshold, and the threshold is where the shares add up to k.
The loss is that of the answers, and of shares that are neither 0 nor 1, which weighs more with every step, so that the
soft choice becomes the hard one. Where its code multiplies tokens by their shares, attention to them is multiplied
here: the decoder's first layer normalises its input, so a token times 0.01 would be seen as well as before. One share
of the tokens is trained; the scorer is used at all of them.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from bench.accuracy import model, questions, train
from bench.accuracy.features import opened, training
from bench.accuracy.settings import Settings
from bench.accuracy.steps import Steps
from tokenprune_kernels.vision_selector import VisionSelectorScorer

SEED = 4
HIDDEN = 64
RATIO = 0.2
"""The share of the tokens in training, as in the paper."""
LEARNING_RATE = 5e-3
SOFTNESS = 2.0
"""What shares that are neither 0 nor 1 weigh in the last step."""
BISECTIONS = 30
LOG, WEIGHTS = "scorer-log.json", "scorer.safetensors"


def soft_top_k(scores: Tensor, k: int) -> Tensor:
    """The sigmoids of scores above a threshold, which is where they add up to k; differentiable.

    Args:
        scores: ``[..., N]``.
        k: between 0 and N, neither of them.
    """
    with torch.no_grad():
        low, high = scores.amin(-1, keepdim=True) - 20, scores.amax(-1, keepdim=True) + 20
        for _ in range(BISECTIONS):
            middle = (low + high) / 2
            above = torch.sigmoid(scores - middle).sum(-1, keepdim=True) > k
            low, high = torch.where(above, middle, low), torch.where(above, high, middle)
    share = torch.sigmoid(scores - low)
    slope = (share * (1 - share)).sum(-1, keepdim=True).detach()
    # A step of Newton's changes the threshold little, and gives it the derivative that it has.
    threshold = low + (share.sum(-1, keepdim=True) - k) / slope.clamp_min(1e-6)
    return torch.sigmoid(scores - threshold)


class ScorerTraining(Steps):
    """The training of the scorer up to some step, in a folder."""

    what = "scorer"

    def __init__(self, settings: Settings, folder: Path) -> None:
        self.store = opened(settings, folder)[training(settings.side)]
        self.model = model.load(folder / "checkpoint").requires_grad_(False)
        torch.manual_seed(model.SEED)
        self.scorer = VisionSelectorScorer(settings.hidden_size, HIDDEN)
        self.k = round(RATIO * self.store.part.tokens)
        parameters = dict(self.scorer.named_parameters())
        of = model.digest(model.trained_parameters(self.model))
        super().__init__(settings, folder / "scorer.pt", settings.scorer_steps, parameters, 0.0, of=of)

    def rate(self) -> float:
        return LEARNING_RATE * (1 - self.step / self.total)

    def loss(self) -> Tensor:
        rng = np.random.default_rng([SEED, self.step])
        count = self.settings.training_scenes[0][1]
        numbers = rng.choice(count, self.settings.scorer_batch, replace=False).tolist()
        part = self.store.part
        given = [part.scene(number) for number in numbers]
        packed = train.Packed([questions.taught(each, rng) for each in given], part.tokens)
        shares: list[Tensor] = []

        def seen(visual: Tensor) -> Tensor:
            shares.append(soft_top_k(self.scorer(visual), self.k))
            return shares[-1]

        with self.products():
            predicted = train.logits(self.model, model.joined(self.store.read(numbers)), packed, seen=seen)
        undecided = (shares[0] * (1 - shares[0])).mean()
        return train.answers_loss(predicted, packed) + SOFTNESS * (self.step / self.total) * undecided

    def validated(self) -> dict[str, Any]:
        """At the end, what is right on scenes that were kept aside, with the k tokens of the hard choice alone."""
        if self.step < self.total:
            return {}

        def keep(visual: Tensor) -> Tensor:
            rows = self.scorer(visual).topk(self.k).indices.sort().values
            return visual.take_along_dim(rows.unsqueeze(-1), dim=1)

        count, every = self.settings.validation_scenes, self.store.part.tokens
        return {
            "hard choice": train.right(self.model, self.store, count, self.k, keep),
            "all tokens": train.right(self.model, self.store, count, every),
        }


def run(settings: Settings, folder: Path) -> dict[str, Any]:
    """Trains to the end, or goes on with it, and writes the weights. Returns the training log."""
    training = ScorerTraining(settings, folder)
    training.run()
    save_file(training.scorer.state_dict(), folder / WEIGHTS)
    log = {"hidden": HIDDEN, "ratio": RATIO, **training.as_result()}
    (folder / LOG).write_text(json.dumps(log, indent=1) + "\n")
    return log


def read_log(folder: Path) -> dict[str, Any]:
    """What ``run`` wrote.

    Raises:
        ValueError: if it has not come to its end.
    """
    return train.read_log(folder, LOG)


def load(folder: Path) -> VisionSelectorScorer:
    """The trained scorer."""
    return VisionSelectorScorer.from_pretrained(folder / WEIGHTS)
