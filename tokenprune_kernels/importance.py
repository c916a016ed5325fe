"""Importance of visual tokens, for ``idpruner``."""

from __future__ import annotations

from torch import Tensor

from .checks import check_dimensions
from .vision_selector import VisionSelectorScorer

__all__ = ["VisionSelectorScorer", "norm"]


def norm(x: Tensor) -> Tensor:
    """Returns the Euclidean norm of each token, accumulated in float32.

    The simplest importance: it needs no model, and it is what the command line uses.

    Args:
        x: tokens, ``[..., N, D]``, any floating dtype.

    Returns:
        float32 ``[..., N]``.

    Raises:
        ValueError, TypeError: unless x is a tensor of that shape.

    O(N D).

    Example:
        >>> import torch
        >>> from tokenprune_kernels.importance import norm
        >>> norm(torch.tensor([[3.0, 4.0], [0.0, 2.0]]))
        tensor([5., 2.])
    """
    check_dimensions("norm", "x", x, "[..., N, D]")
    return x.float().norm(dim=-1)
