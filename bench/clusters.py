"""``python -m bench clusters``: DivPrune on up to a million rows in clusters, beside a loop from its first pick on.

Unit centres with Gaussian noise around them. The loop keeps each row's largest similarity to a pick, in float32. It
has no way to the first pick that does not look at all pairs. Writes ``bench/results/clusters-PROCESSOR.json`` and the
table of docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.nn.functional import normalize

from bench import files, render
from bench.markdown import heading, line, number
from tokenprune_kernels import build_info
from tokenprune_kernels.analysis.progress import Progress

CLUSTERS, DEPTH, K = 1_000, 256, 1_000
NOISE = (0.3, 0.02)
"""The expected norm of what is added to a centre."""
ROWS = (100_000, 1_000_000)
MOST_ROWS_OF_THE_LOOP = 100_000


def tokens(count: int, noise: float) -> torch.Tensor:
    """Rows of seeded clusters: float32 [count, DEPTH]."""
    return tokens_and_clusters(count, noise, DEPTH)[0]


def tokens_and_clusters(count: int, noise: float, depth: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows of seeded clusters, float32 [count, depth], and the cluster of each."""
    generator = torch.Generator().manual_seed(0)
    centres = normalize(torch.randn(CLUSTERS, depth, generator=generator), dim=1)
    members = torch.randint(CLUSTERS, (count,), generator=generator)
    x = torch.randn(count, depth, generator=generator).mul_(noise / depth**0.5)
    for part, own in zip(x.split(1 << 16), members.split(1 << 16), strict=True):
        part.add_(centres[own])
    return x, members


def picked_by_loop(x: torch.Tensor, first: int, k: int) -> list[int]:
    """The picks of the running-minimum loop, from the first one on."""
    unit = normalize(x, dim=1)
    picks, nearest = [first], unit @ unit[first]
    while len(picks) < k:
        nearest[picks[-1]] = torch.inf
        picks.append(int(nearest.argmin()))
        torch.maximum(nearest, unit @ unit[picks[-1]], out=nearest)
    return picks


def seconds(call: Callable[[], Any]) -> tuple[float, Any]:
    """How long one call takes, and what it returns."""
    start = time.perf_counter()
    made = call()
    return time.perf_counter() - start, made


def measured(count: int, noise: float) -> dict[str, Any]:
    """One row of the table."""
    x = tokens(count, noise)
    reading, _ = seconds(lambda: x.view(-1).max())
    first, picks = seconds(lambda: torch.ops.tokenprune.divprune(x, 1))
    whole, picks = seconds(lambda: torch.ops.tokenprune.divprune(x, K))
    row = {"rows": count, "noise": noise, "reading": reading, "first_pick": first, "selection": whole}
    if count > MOST_ROWS_OF_THE_LOOP:
        return row
    loop, theirs = seconds(lambda: picked_by_loop(x, int(picks[0]), K))
    same = next((step for step, (a, b) in enumerate(zip(picks.tolist(), theirs, strict=True)) if a != b), K)
    return row | {"loop": loop, "same_picks": same}


def table(result: dict[str, Any]) -> str:
    """The result in Markdown."""
    machine = result["machine"]
    columns = (
        "N",
        "norm of the noise",
        "read x once, s",
        "first pick, s",
        "selection, s",
        "loop from the first pick on, s",
    )
    lines = heading((*columns, "first picks that are the same"))
    for row in result["cells"]:
        times = (number(row.get(name)) for name in ("reading", "first_pick", "selection", "loop"))
        same = f"{row['same_picks']:,}" if "same_picks" in row else "-"
        lines.append(line((f"{row['rows']:,}", f"{row['noise']:g}", *times, same)))
    sentence = (
        f"`divprune`, float32, D = {DEPTH}, {CLUSTERS:,} clusters, k = {K:,}; one call each. {machine['processor']} "
        f"({machine['instruction_sets'][-1]}), {machine['threads']} threads, torch {machine['torch']}."
    )
    return "\n".join([*lines, "", sentence])


def main(arguments: Sequence[str]) -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m bench clusters", description=__doc__)
    parser.add_argument("--rows", type=int, nargs="*", default=ROWS, metavar="N", help=f"items of so many rows {ROWS}")
    parser.add_argument("--no-write", action="store_true", help="leave bench/results and the documents as they are")
    options = parser.parse_args(arguments)
    cases = [(count, noise) for count in options.rows for noise in NOISE]
    cells = []
    with Progress(len(cases), lines=True) as progress:
        for count, noise in cases:
            progress.step(f"{count:,} rows, noise {noise:g}")
            cells.append(measured(count, noise))
    machine = {
        "processor": files.processor(),
        "instruction_sets": build_info()["backends"]["native"]["supported_isas"],
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }
    result = {"machine": machine, "cells": cells}
    print(table(result))
    if not options.no_write:
        files.write(files.file_name("clusters", machine["processor"]), result)
        render.write()
    return 0
