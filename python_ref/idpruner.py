"""IDPruner: MMR on scaled importance (Tan et al., arXiv 2602.13315)."""

from __future__ import annotations

import torch
from torch import Tensor

from .greedy import each_item
from .mmr import select
from .similarity import finite_rows


def idpruner(
    x: Tensor, importance: Tensor, k: int, lam: float = 0.5, initial: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The contract's IDPruner on x ``[..., N, D]`` and importance ``[..., N]``: indices and float64 scores."""
    return each_item(
        lambda x, k, importance, initial=None: _idpruner(x, importance, k, lam, initial),
        x,
        k,
        importance,
        initial=initial,
    )


def _idpruner(x: Tensor, importance: Tensor, k: int, lam: float, initial: Tensor | None) -> tuple[Tensor, Tensor]:
    finite = finite_rows(x, importance)
    return select(x, relevance_of(importance, finite), finite, k, lam, initial)


def relevance_of(importance: Tensor, finite: Tensor) -> Tensor:
    """Importance ``[N]`` scaled to [0, 1] over the finite rows, in float32, every operation rounded.

    Zero everywhere if the range overflows float32, and on non-finite rows.
    """
    importance = importance.float()
    relevance = torch.zeros_like(importance)
    if finite.any():
        smallest, largest = importance[finite].min(), importance[finite].max()
        if (largest - smallest).isfinite():
            relevance[finite] = (importance[finite] - smallest) / (largest - smallest + 1e-6)
    return relevance
