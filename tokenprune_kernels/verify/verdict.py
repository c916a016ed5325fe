"""What the judge finds."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Verdict:
    """The result of a replay. ``bool(verdict)`` is True when the selection is correct."""

    step: int | None
    """The first wrong step of the item; None when no step is wrong. 0 where a shape or dtype is wrong. In varlen forms,
    the output row where one past ``cu_k[S]`` is wrong."""
    reason: str
    """What is wrong at that step, in one sentence; empty when nothing is."""
    shortfall: float
    """By how much the pick of that step misses the best score, or the reported score that of the replay. When no step
    is wrong, the largest shortfall of a pick over all steps. Infinite where no score could excuse the pick."""
    tolerance: float
    """The shortfall that was allowed at that step, ``2 * eps`` of the contract for a pick and ``eps`` for a reported
    score. When no step is wrong, the largest one that was allowed for a pick."""
    decisive: bool
    """Whether the best score led the runner-up by more than ``4 * eps`` at every step. Then no other selection is
    correct, and the indices must equal the oracle's."""
    item: tuple[int, ...] = ()
    """The position in the batch, or the segment, that the fields above describe."""

    def __bool__(self) -> bool:
        return self.step is None


def inexcusable(step: int, reason: str, item: tuple[int, ...] = ()) -> Verdict:
    """The verdict on a mistake that no score could excuse, such as a row that is picked twice."""
    return Verdict(step, reason, math.inf, 0.0, False, item)


def all_correct(verdicts: list[Verdict]) -> Verdict:
    """The verdict on a batch, from those on its items, all of them correct."""
    shortfall = max((verdict.shortfall for verdict in verdicts), default=0.0)
    tolerance = max((verdict.tolerance for verdict in verdicts), default=0.0)
    return Verdict(None, "", shortfall, tolerance, all(verdict.decisive for verdict in verdicts))
