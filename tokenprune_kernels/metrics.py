"""Measures of a selection."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def smallest_distance(tokens: Tensor) -> Tensor:
    """The max-min diversity objective: the smallest cosine distance between two of the tokens.

    What DivPrune maximises greedily (Alvar et al., CVPR 2025, arXiv 2503.02175, section 3), in float64.

    Args:
        tokens: the kept tokens, ``[..., k, D]``, k >= 2.

    Returns:
        float64 ``[...]``.

    Raises:
        ValueError: for fewer than two tokens.
    """
    k = tokens.shape[-2]
    if k < 2:
        raise ValueError(f"smallest_distance: expected at least 2 tokens, got {k}")
    unit = F.normalize(tokens.double(), dim=-1, eps=1e-12)
    distance = 1.0 - unit @ unit.mT
    itself = torch.eye(k, dtype=torch.bool, device=tokens.device)
    return distance.masked_fill(itself, torch.inf).amin(dim=(-2, -1))
