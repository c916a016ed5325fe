"""How two trade-offs compare: importance retention, the more the better, against the Hopkins statistic, the less."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

Point = tuple[float, float]
"""Importance retention and Hopkins statistic."""


@dataclass(frozen=True)
class Comparison:
    """The first trade-off against the second, over the retentions from ``start`` to ``end``.

    Attributes:
        start: the smallest retention on either frontier.
        end: the largest that both reach.
        area: between the curves of the best statistic at each retention or more; positive where the first is lower.
        mean: the area over the length of the range.
        lower: the share of the range in which the first is lower.
        higher: the share in which it is higher.
    """

    start: float
    end: float
    area: float
    mean: float
    lower: float
    higher: float


def frontier(points: Sequence[Point]) -> list[Point]:
    """The points that no other is at least as good as in both, by ascending retention."""
    best: list[Point] = []
    for retention, statistic in sorted(set(points), key=lambda point: (-point[0], point[1])):
        if not best or statistic < best[-1][1]:
            best.append((retention, statistic))
    return best[::-1]


def attained(points: Sequence[Point], retention: float) -> float:
    """The smallest statistic of the points with so much retention, or more; there must be one.

    Nothing is interpolated: what no selection has reached does not count.
    """
    return min(statistic for reached, statistic in points if reached >= retention)


def compare(first: Sequence[Point], second: Sequence[Point]) -> Comparison:
    """Sets one trade-off against another; both need a point."""
    first, second = frontier(first), frontier(second)
    start = min(first[0][0], second[0][0])
    end = min(first[-1][0], second[-1][0])
    edges = sorted({start, end, *(retention for retention, _ in (*first, *second) if start < retention < end)})
    area = lower = higher = 0.0
    for left, right in itertools.pairwise(edges):
        # Between two edges no point is gained or lost: those at the right one are what is attained.
        gain = attained(second, right) - attained(first, right)
        area += gain * (right - left)
        lower += (right - left) * (gain > 0)
        higher += (right - left) * (gain < 0)
    width = end - start
    if width == 0:
        return Comparison(start, end, 0.0, attained(second, end) - attained(first, end), 0.0, 0.0)
    return Comparison(start, end, area, area / width, lower / width, higher / width)
