"""Block sizes of the native backend, one changed at a time: for whoever has another processor.

The sizes change how much work is done at a time and no bit of a result.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from bench import judge
from bench.cases import quick_cpu_cases, task
from bench.devices.cpu import Cpu
from bench.markdown import heading, line
from bench.peers import OPERATOR
from bench.times import Times
from tokenprune_kernels.analysis.progress import Progress

NEVER = 2**62
# For each argument of `_force_block_sizes`, in its order.
GRID = (
    (32, 64, 96, 192, 384),
    (8, 16, 32, 64),
    (16, 32, 64, 128),
    (32, 64, 128),
    (256, 512, 1_024),
    (8, 16, 32, NEVER),
)
SECONDS = 0.1


def names() -> list[str]:
    """What the block sizes are called."""
    return [argument.name for argument in torch.ops.tokenprune_native._force_block_sizes.default._schema.arguments]


@contextlib.contextmanager
def forced(sizes: Sequence[int]) -> Iterator[None]:
    """Has the native backend take these sizes; its own where they are 0."""
    force = torch.ops.tokenprune_native._force_block_sizes
    force(*sizes)
    try:
        yield
    finally:
        force(*[0] * len(sizes))


def table(only: str = "") -> str:
    """The operator's medians over those with the backend's own sizes, timed in turns, on the quick cases so named."""
    device, cases = Cpu(), [case for case in quick_cpu_cases() if only in str(case)]
    settings = [(i, value) for i, values in enumerate(GRID) for value in values]
    ratios: dict[tuple[int, int], list[float]] = {setting: [] for setting in settings}
    with Progress(len(cases), lines=True) as progress:
        for case in cases:
            given: Any = task(case)
            select = OPERATOR.prepare(given)
            expected = [select(given.x)]
            progress.step(str(case))
            for i, value in settings:
                medians = []
                for sizes in ([0] * len(GRID), [value if j == i else 0 for j in range(len(GRID))]):
                    with forced(sizes):
                        results, milliseconds = device.time(select, given.x, seconds=SECONDS)
                    if not all(judge.same([result], expected) for result in results):
                        raise RuntimeError(f"{names()[i]} = {value} changes the picks of {case}")
                    medians.append(Times.of(milliseconds).median)
                ratios[i, value].append(medians[1] / medians[0])
    lines = heading(
        ("block size", "value", *(f"{case.method} {case.tokens.kind} {case.dtype_name}" for case in cases), "mean")
    )
    for (i, value), each in ratios.items():
        mean = math.exp(math.fsum(map(math.log, each)) / len(each))
        shown = "never" if value == NEVER else str(value)
        lines.append(line((names()[i], shown, *(f"{ratio:.2f}" for ratio in each), f"{mean:.2f}")))
    return "\n".join([*lines, "", "Times as long as with the backend's own sizes; below 1 is faster."])
