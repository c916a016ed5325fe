"""Block sizes of the native backend, one changed at a time: for whoever has another processor.

The sizes change how much work is done at a time and no bit of a result.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
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
# By argument of `_force_block_sizes`.
GRID = {
    "frontier": (32, 64, 96, 192, 384),
    "picks_per_update": (8, 16, 32, 64),
    "candidates": (16, 32, 64, 128),
    "outlier_block": (32, 64, 128),
    "pruned_chunk": (256, 512, 1_024),
    "signature_after": (8, 16, 32, NEVER),
    "grouped_rows": (1, NEVER),
}
SECONDS = 0.1


@contextlib.contextmanager
def forced(**sizes: int) -> Iterator[None]:
    """Has the native backend take these sizes, and its own for the others."""
    force = torch.ops.tokenprune_native._force_block_sizes
    force(**sizes)
    try:
        yield
    finally:
        force()


def table(only: str = "") -> str:
    """The operator's medians over those with the backend's own sizes, timed in turns, on the quick cases so named."""
    device, cases = Cpu(), [case for case in quick_cpu_cases() if only in str(case)]
    settings = [(name, value) for name, values in GRID.items() for value in values]
    ratios: dict[tuple[str, int], list[float]] = {setting: [] for setting in settings}
    with Progress(len(cases), lines=True) as progress:
        for case in cases:
            given: Any = task(case)
            select = OPERATOR.prepare(given)
            expected = [select(given.x)]
            progress.step(str(case))
            for name, value in settings:
                medians = []
                for sizes in ({}, {name: value}):
                    with forced(**sizes):
                        results, milliseconds = device.time(select, given.x, seconds=SECONDS)
                    if not all(judge.same([result], expected) for result in results):
                        raise RuntimeError(f"{name} = {value} changes the picks of {case}")
                    medians.append(Times.of(milliseconds).median)
                ratios[name, value].append(medians[1] / medians[0])
    lines = heading(
        ("block size", "value", *(f"{case.method} {case.tokens.kind} {case.dtype_name}" for case in cases), "mean")
    )
    for (name, value), each in ratios.items():
        mean = math.exp(math.fsum(map(math.log, each)) / len(each))
        shown = "never" if value == NEVER else str(value)
        lines.append(line((name, shown, *(f"{ratio:.2f}" for ratio in each), f"{mean:.2f}")))
    return "\n".join([*lines, "", "Times as long as with the backend's own sizes; below 1 is faster."])
