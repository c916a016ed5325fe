"""Measures of a selection, and of what it saves."""

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


def prefill_flops(n: int, d: int, m: int, layers: int) -> int:
    """The operations of a language model's prefill, ``layers * (4 n d^2 + 2 n^2 d + 2 n d m)``.

    The estimate by which DivPrune compares budgets (Alvar et al., CVPR 2025, arXiv 2503.02175), for tokens that are
    dropped before the first layer: four projections, attention, and a feed-forward of two matrices, with one operation
    for each multiplication and addition together. The vision tower, the vocabulary, grouped keys and values and a third
    matrix of the feed-forward are not in it.

    Args:
        n: how many tokens the language model is given, text and kept visual tokens together.
        d: the width of its layers.
        m: the width of its feed-forwards.
        layers: how many layers it has.

    Returns:
        The number of operations; divided by 1e12, TFLOPs.

    Raises:
        ValueError: for a negative argument.
    """
    for name, value in {"n": n, "d": d, "m": m, "layers": layers}.items():
        if value < 0:
            raise ValueError(f"prefill_flops: expected {name} to be at least 0, got {value}")
    return layers * (4 * n * d**2 + 2 * n**2 * d + 2 * n * d * m)
