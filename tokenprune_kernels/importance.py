"""Importance of visual tokens, for ``idpruner``."""

from __future__ import annotations

from torch import Tensor

from .vision_selector import VisionSelectorScorer

__all__ = ["VisionSelectorScorer", "norm"]


def norm(x: Tensor) -> Tensor:
    """The Euclidean norm of each token, accumulated in float32.

    Args:
        x: tokens, ``[..., N, D]``, any floating dtype.

    Returns:
        float32 ``[..., N]``.
    """
    return x.float().norm(dim=-1)
