"""``python -m bench host``: what an eager call on a GPU costs in Python before its last launch, without a GPU.

Kernels are compiled for a GPU and their launches counted instead of made. What is left is the time of this package, of
torch's allocations and dispatcher, and of the way to Triton's launchers.
"""

from __future__ import annotations

import argparse
import cProfile
import functools
import itertools
import json
import pstats
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import triton

import tokenprune_kernels
from bench.files import processor
from bench.gpu.stand_in import StandIn, stand_in_device
from bench.markdown import heading, line, number
from tokenprune_kernels import backends
from tokenprune_kernels.backends.triton import operators, runtime

CALLS, WARM_UP_CALLS = 400, 20  # fewer together than COUNT
COUNT, DEPTH, K = 576, 4_096, 58
AIM_MICROSECONDS = 60.0
"""Of a dense call."""


def calls() -> dict[str, Callable[[], Any]]:
    """The calls, by name: bfloat16, one item of 576 rows."""
    x, weight = torch.randn(COUNT, DEPTH).bfloat16(), torch.rand(COUNT)
    cu_seqlens, cu_k = (torch.tensor([0, size], dtype=torch.int32) for size in (COUNT, K))

    def call(name: str, *given: Any, **settings: Any) -> Callable[[], Any]:
        select = operators.operator(name, "default")
        if not settings:
            return functools.partial(select, *given)

        def forced() -> None:
            with runtime.settings(**settings):
                select(*given)

        return forced

    rows = itertools.count(COUNT + 1)
    many, new = torch.randn(2 * COUNT, DEPTH).bfloat16(), operators.operator("divprune", "default")
    return {
        "divprune": call("divprune", x, K),
        "torch.ops.tokenprune.divprune": lambda: torch.ops.tokenprune.divprune(x, K),
        "divprune, N new each time": lambda: new(many[: next(rows)], K),
        "divprune, settings changed": call("divprune", x, K, form="lazy_greedy"),
        "mmr": call("mmr", x, weight, K, 0.5),
        "idpruner": call("idpruner", x, weight, K, 0.5),
        "dpp": call("dpp", x, weight, K),
        "divprune_varlen": call("divprune_varlen", x, cu_seqlens, cu_k, K, COUNT),
        "mmr_varlen": call("mmr_varlen", x, weight, cu_seqlens, cu_k, K, COUNT, 0.5),
    }


def microseconds(call: Callable[[], Any], count: int = CALLS) -> list[float]:
    """The sorted times of calls."""
    for _ in range(WARM_UP_CALLS):
        call()
    times = []
    for _ in range(count):
        start = time.perf_counter()
        call()
        times.append(1e6 * (time.perf_counter() - start))
    return sorted(times)


def measured(driver: StandIn, only: str = "") -> list[dict[str, Any]]:
    """A row for each call."""
    rows = []
    for name, call in calls().items():
        if only not in name:
            continue
        driver.launches.clear()
        call()
        launches = [launch.kernel for launch in driver.launches]
        times = microseconds(call)
        rows.append(
            {
                "call": name,
                "launches": launches,
                "median": statistics.median(times),
                "tenth": times[len(times) // 10],
            }
        )
    return rows


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The rows in Markdown."""
    lines = heading(("call", "launches", "microseconds (median)", "fastest tenth"))
    for row in rows:
        lines.append(line((row["call"], str(len(row["launches"])), number(row["median"]), number(row["tenth"]))))
    return "\n".join(lines)


def profile(call: Callable[[], Any]) -> None:
    """Prints where a call spends its time."""
    profiler = cProfile.Profile()
    profiler.enable()
    for _ in range(CALLS):
        call()
    profiler.disable()
    pstats.Stats(profiler).sort_stats("tottime").print_stats(20)


def _available(device_type: str) -> None:
    """In the place of `unavailable`: nothing is in the way."""


def main(arguments: Sequence[str]) -> int:
    """Measures, and prints a table."""
    parser = argparse.ArgumentParser(prog="python -m bench host", description=__doc__.partition("\n")[0])
    parser.add_argument("--only", default="", metavar="TEXT", help="the calls with this in their names")
    parser.add_argument("--profile", action="store_true", help="also profile each call")
    parser.add_argument("--out", type=Path, metavar="FILE", help="also write the rows to this file")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    # From tensors on the CPU, the dispatcher would take another backend.
    available = mock.patch.object(backends.triton, "unavailable", _available)
    with stand_in_device() as driver, available, tokenprune_kernels.use_backend("triton"):
        rows = measured(driver, options.only)
        print(f"{table(rows)}\n\n{processor()}, torch {torch.__version__}, triton {triton.__version__}.")
        if options.profile:
            for name, call in calls().items():
                if options.only in name:
                    profile(call)
    if options.out:
        options.out.write_text(json.dumps(rows, indent=1) + "\n")
    return 0
