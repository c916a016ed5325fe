"""How two trade-offs compare: more importance retention is better, and so is a lower Hopkins statistic."""

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
        end: the largest retention that both reach.
        area: the area between the frontiers, positive where the first is lower.
        mean: the area divided by the length of the range; where the range is one point, the difference there.
        lower: the share of the range in which the first is lower.
        higher: the share of the range in which the first is higher.
    """

    start: float
    end: float
    area: float
    mean: float
    lower: float
    higher: float


def frontier(points: Sequence[Point]) -> list[Point]:
    """Returns the Pareto-optimal points, by ascending retention."""
    best: list[Point] = []
    for retention, statistic in sorted(set(points), key=lambda point: (-point[0], point[1])):
        if not best or statistic < best[-1][1]:
            best.append((retention, statistic))
    return best[::-1]


def interpolate(points: Sequence[Point], retention: float) -> float:
    """Returns a frontier's statistic at a retention that is not above its largest.

    It is linear between two points: a parameter between theirs selects something between. Below the first point, it is
    the statistic of that point, which has more retention.
    """
    if retention <= points[0][0]:
        return points[0][1]
    for (left, low), (right, high) in itertools.pairwise(points):
        if retention <= right:
            return low + (high - low) * (retention - left) / (right - left)
    return points[-1][1]


def compare(first: Sequence[Point], second: Sequence[Point]) -> Comparison:
    """Compares two trade-offs, each of at least one point."""
    first, second = frontier(first), frontier(second)
    start = min(first[0][0], second[0][0])
    end = min(first[-1][0], second[-1][0])
    edges = sorted({start, end, *(retention for retention, _ in (*first, *second) if start < retention < end)})
    area = lower = higher = 0.0
    for left, right in itertools.pairwise(edges):
        # Both frontiers are linear between two edges.
        gains = [interpolate(second, edge) - interpolate(first, edge) for edge in (left, right)]
        width = right - left
        area += width * sum(gains) / 2
        lower += width * _positive_share(*gains)
        higher += width * _positive_share(*(-gain for gain in gains))
    if end <= start:
        return Comparison(start, end, 0.0, interpolate(second, end) - interpolate(first, end), 0.0, 0.0)
    width = end - start
    return Comparison(start, end, area, area / width, lower / width, higher / width)


def _positive_share(left: float, right: float) -> float:
    """Returns the share of an interval in which the line from one value to the other is positive."""
    if left <= 0 and right <= 0:
        return 0.0
    if left >= 0 and right >= 0:
        return 1.0
    return max(left, right) / (max(left, right) - min(left, right))
