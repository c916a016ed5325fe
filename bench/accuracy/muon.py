"""Muon in float32: the momentum of a matrix, made orthogonal, is the direction in which it moves.

Source: Jordan et al., "Muon: An optimizer for hidden layers in neural networks" (2024), with the step size of "Muon is
scalable for LLM training" (arXiv 2502.16982, section 2.2). ``torch.optim.Muon`` multiplies bfloat16, which takes
seconds a step on processors without instructions for it. This one multiplies matrices of one shape together.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

COEFFICIENTS, ITERATIONS = (3.4445, -4.775, 2.0315), 5
MOMENTUM = 0.95
STEP = 0.2
"""The root mean square of AdamW's steps, as a share of the learning rate: one learning rate then serves both."""


def orthogonal(matrices: Tensor) -> Tensor:
    """The nearest matrices whose singular values are all near 1, by Newton-Schulz iterations.

    Args:
        matrices: float32 ``[..., m, n]``.
    """
    if matrices.shape[-2] > matrices.shape[-1]:
        return orthogonal(matrices.mT).mT
    a, b, c = COEFFICIENTS
    found = matrices / matrices.norm(dim=(-2, -1), keepdim=True).clamp_min(1e-7)
    for _ in range(ITERATIONS):
        gram = found @ found.mT
        found = a * found + (b * gram + c * gram @ gram) @ found
    return found


class Muon(torch.optim.Optimizer):
    """As ``torch.optim.Muon`` with Nesterov's momentum and ``adjust_lr_fn="match_rms_adamw"``.

    Args:
        matrices: the parameters, which all have gradients at each step.
        weight_decay: decoupled.
    """

    def __init__(self, matrices: Iterable[nn.Parameter], weight_decay: float) -> None:
        super().__init__(matrices, {"lr": 0.0, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        """One step with the learning rate that each group has."""
        for group in self.param_groups:
            by_shape: dict[torch.Size, list[nn.Parameter]] = {}
            for each in group["params"]:
                by_shape.setdefault(each.shape, []).append(each)
            for (height, width), matrices in by_shape.items():
                directions = orthogonal(torch.stack(self._momenta(matrices)))
                size = group["lr"] * STEP * math.sqrt(max(height, width))
                for each, direction in zip(matrices, directions, strict=True):
                    each.mul_(1 - group["lr"] * group["weight_decay"]).sub_(direction, alpha=size)

    def _momenta(self, matrices: Sequence[nn.Parameter]) -> list[Tensor]:
        """Nesterov's: what the running means would be after the same gradient once more."""
        found = []
        for each in matrices:
            gradient = each.grad
            assert gradient is not None
            mean = self.state[each].setdefault("mean", torch.zeros_like(gradient)).lerp_(gradient, 1 - MOMENTUM)
            found.append(gradient.lerp(mean, MOMENTUM))
        return found
