"""The scale of the tower's tokens: training sees them standardised, the finished projector takes them as they are.

The hidden states that tokens join differ in scale, those in which digits are legible being five times smaller than the
others. As they are, an optimizer with steps of one size learns from the large ones alone for a long time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from bench.accuracy import model
from bench.accuracy.features import Features

PICTURES = 64
SMALLEST_DEVIATION = 1e-3


@dataclass(frozen=True)
class Standard:
    """The mean and the standard deviation of each element of tokens, ``[2 D]``."""

    mean: Tensor
    deviation: Tensor

    @classmethod
    def of(cls, store: Features) -> Standard:
        """Those of the first pictures."""
        tokens = model.joined(store.read(range(min(PICTURES, store.part.count)))).flatten(0, 1)
        return cls(tokens.mean(0), tokens.std(0).clamp_min(SMALLEST_DEVIATION))

    def __call__(self, states: Tensor) -> Tensor:
        """The standardised tokens of hidden states, ``[B, patches, 2 D]``."""
        return (model.joined(states) - self.mean) / self.deviation

    @torch.no_grad()
    def fold(self, projector: Any) -> None:
        """Changes a projector of standardised tokens into one of tokens as they are."""
        first = projector.linear_1
        first.weight.div_(self.deviation)
        first.bias.sub_(first.weight @ self.mean)
