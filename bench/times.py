"""Times of calls."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Times:
    """Milliseconds of one call."""

    median: float
    least: float
    most: float
    samples: int

    @classmethod
    def of(cls, samples: Sequence[float]) -> Times:
        return cls(statistics.median(samples), min(samples), max(samples), len(samples))
