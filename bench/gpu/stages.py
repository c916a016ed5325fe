"""The stages of `make gpu`, in their order: how long each may take, and what it tells."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Stage:
    """A stage.

    Attributes:
        name: as in ``GPU_STAGES``.
        share: of the budget, beside the shares of the other stages that run.
        most: its limit in seconds, whatever the budget.
        tells: what it tells, in one line.
    """

    name: str
    share: float
    most: float
    tells: str

    def command(self, folder: Path, deadline: float, options: Sequence[str] = ()) -> list[str]:
        """What runs it in a process of its own, until a time on the clock of `time.monotonic`."""
        return [
            *(sys.executable, "-m", "bench", "gpu", "--stage", self.name),
            *("--out", str(folder), "--deadline", str(deadline), *options),
        ]


STAGES = (
    Stage("contact", 60, 60, "versions, device, clocks; each kernel and form once, judged, in a process of its own"),
    Stage("tests", 130, 600, "the tests marked `gpu`, those that tell most first, none of which stops the others"),
    Stage("bits", 50, 300, "tiles of the same instruction round alike, and the grid barrier holds, 1,000 times"),
    Stage("speed", 110, 600, "the benchmark, the three sizes of the targets first"),
    Stage("profile", 30, 120, "hardware counters of the main kernels, where ncu is there"),
    Stage("tune", 50, 300, "the configurations of the tables for the main shapes, timed"),
    Stage("e2e", 50, 600, "a vision-language model in full depth, with and without pruning"),
)

NAMES = tuple(stage.name for stage in STAGES)


def named(names: Iterable[str]) -> list[Stage]:
    """The stages of these names, in the order of the table.

    Raises:
        ValueError: an unknown name.
    """
    wanted = list(names)
    for name in wanted:
        if name not in NAMES:
            raise ValueError(f"GPU_STAGES: expected some of {', '.join(NAMES)}, got {name!r}")
    return [stage for stage in STAGES if stage.name in wanted]


def limits(stages: Sequence[Stage], seconds: float) -> list[float]:
    """The limit of the first stage, and then of each next one if all before took theirs.

    What a stage is cut to by ``most`` is left to the later ones.
    """
    left, shares, result = seconds, sum(stage.share for stage in stages), []
    for stage in stages:
        limit = min(stage.most, left * stage.share / shares)
        result.append(limit)
        left, shares = left - limit, shares - stage.share
    return result
