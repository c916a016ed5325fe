"""The selectors that the operators are compared with, as loops over Python numbers; one item at a time."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .divprune import divprune


def top_k(importance: Tensor, k: int) -> list[int]:
    """The k largest of ``[N]``, lowest index first among equals, what is not finite last."""
    weights = importance.float().tolist()
    return sorted(range(len(weights)), key=lambda i: (not math.isfinite(weights[i]), -_finite(weights[i]), i))[:k]


def _finite(weight: float) -> float:
    return weight if math.isfinite(weight) else 0.0


def mixture(x: Tensor, importance: Tensor, k: int, share: float) -> list[int]:
    """A share of k by importance, the rest by DivPrune among the rows of x ``[N, D]`` that are left."""
    important = top_k(importance, round(share * k))
    others = [i for i in range(len(x)) if i not in important]
    return important + [others[pick] for pick in divprune(x[others], k - len(important))[0].tolist()]


def outliers(attention: Tensor) -> list[bool]:
    """Which of ``[N]`` exceed the upper quartile by more than 1.5 times the distance of the quartiles."""
    ordered = sorted(attention.double().tolist())

    def quartile(number: int) -> float:
        place = number * (len(ordered) - 1) / 4
        below = ordered[math.floor(place)]
        return below + (place - math.floor(place)) * (ordered[math.ceil(place)] - below)

    limit = quartile(3) + 1.5 * (quartile(3) - quartile(1))
    return [weight > limit for weight in attention.double().tolist()]


def merge(x: Tensor, attention: Tensor, kept: list[int], keys: Tensor, neighbours: int) -> Tensor:
    """Each kept row of x ``[N, D]``, with its neighbours by keys added, weighted by attention; float64 ``[k, D]``."""
    x, attention, keys = x.double(), attention.double(), keys.double()
    merged = []
    for row in kept:
        others = [i for i in range(len(x)) if i != row]
        similarity = {i: float(torch.cosine_similarity(keys[row], keys[i], dim=0)) for i in others}
        nearest = sorted(others, key=lambda i: (-similarity[i], i))[:neighbours]
        merged.append(x[row] + sum((attention[i] * x[i] for i in nearest), torch.zeros(x.shape[1]).double()))
    return torch.stack(merged) if merged else x[:0]
