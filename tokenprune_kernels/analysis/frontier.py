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
        area: between the frontiers; positive where the first is lower.
        mean: the area over the length of the range; the difference at its only point where it has none.
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


def at(points: Sequence[Point], retention: float) -> float:
    """A frontier's statistic at a retention, at most its largest.

    Linear between two points, since a parameter between theirs selects something between; below the first point, its
    own, since more retention is no loss.
    """
    if retention <= points[0][0]:
        return points[0][1]
    for (left, low), (right, high) in itertools.pairwise(points):
        if retention <= right:
            return low + (high - low) * (retention - left) / (right - left)
    return points[-1][1]


def compare(first: Sequence[Point], second: Sequence[Point]) -> Comparison:
    """Sets one trade-off against another; both need a point."""
    first, second = frontier(first), frontier(second)
    start = min(first[0][0], second[0][0])
    end = min(first[-1][0], second[-1][0])
    edges = sorted({start, end, *(retention for retention, _ in (*first, *second) if start < retention < end)})
    area = lower = higher = 0.0
    for left, right in itertools.pairwise(edges):
        # Both are straight between two edges.
        gains = [at(second, edge) - at(first, edge) for edge in (left, right)]
        width = right - left
        area += width * sum(gains) / 2
        lower += width * _positive_share(*gains)
        higher += width * _positive_share(*(-gain for gain in gains))
    if end <= start:
        return Comparison(start, end, 0.0, at(second, end) - at(first, end), 0.0, 0.0)
    width = end - start
    return Comparison(start, end, area, area / width, lower / width, higher / width)


def _positive_share(left: float, right: float) -> float:
    """The share of an interval in which what goes straight from one value to the other is positive."""
    if left <= 0 and right <= 0:
        return 0.0
    if left >= 0 and right >= 0:
        return 1.0
    return max(left, right) / (max(left, right) - min(left, right))
