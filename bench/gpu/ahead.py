"""Compiles ahead of the first launch, in parallel processes. What is compiled is found in Triton's cache later.

``python -m bench.gpu.ahead`` does so for the calls of all stages, on a machine without a GPU too, into
``TRITON_CACHE_DIR``.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import os
import sys
import time
from collections.abc import Callable, Iterable
from typing import Any

from bench.gpu import machine, process
from bench.gpu.calls import Call, main_calls, shape_of, small_calls
from bench.gpu.findings import PASSED
from bench.inputs import PACKED

EACH_SECONDS = 60.0


def compile_all(
    calls: Iterable[Call], architecture: int, deadline: float = float("inf")
) -> tuple[float, dict[str, str]]:
    """Compiles what calls launch, one process a processor. Returns its seconds, and what was not compiled and why."""
    start, missing = time.monotonic(), {}

    def report(name: str, ended: process.Ended) -> None:
        if ended.outcome != PASSED:
            missing[name] = f"{ended.outcome}, {ended.detail}"

    jobs: dict[str, Callable[[], Any]] = {"driver": compile_driver}
    jobs |= {call.name: functools.partial(compile_one, call, architecture) for call in calls}
    process.run_forked(jobs, EACH_SECONDS, report, deadline=deadline, side_by_side=max(1, (os.cpu_count() or 1) - 1))
    return time.monotonic() - start, missing


def compile_driver() -> None:
    """Compiles what Triton asks the CUDA driver through."""
    from triton.backends.nvidia.driver import CudaUtils

    CudaUtils()


def compile_one(call: Call, architecture: int) -> dict[str, Any]:
    """Makes a call on empty tokens, whose launches are counted instead of made. Returns how many there were."""
    import torch

    from bench.gpu.stand_in import stand_in_device
    from tokenprune_kernels.backends.triton import operators, runtime
    from tokenprune_kernels.methods import METHODS

    torch.set_num_threads(1)
    case, tokens = call.case, call.case.tokens
    method = METHODS[case.method]
    x = torch.empty(shape_of(tokens), dtype=case.dtype)
    weight = None if method.weight is None else torch.empty(x.shape[:-1])
    name, budget = case.method, (tokens.ks[0],)
    if tokens.layout == PACKED:
        sums = (
            torch.tensor([0, *itertools.accumulate(each)], dtype=torch.int32) for each in (tokens.counts, tokens.ks)
        )
        name, budget = f"{case.method}_varlen", (*sums, sum(tokens.ks), tokens.longest)
    with stand_in_device(architecture, with_launchers=True) as driver, runtime.settings(form=call.form):
        operators.operator(name, "default")(*method.arguments(x, weight, budget, 0.5))
        return {"launches": len(driver.launches)}


def main(arguments: list[str]) -> int:
    """Compiles for all stages."""
    parser = argparse.ArgumentParser(prog="python -m bench.gpu.ahead", description=__doc__.partition("\n")[0])
    parser.add_argument("--architecture", type=int, default=machine.architecture(), help="compute capability, times 10")
    options = parser.parse_args(arguments)
    seconds, missing = compile_all([*small_calls(), *main_calls()], options.architecture)
    print(f"compiled for sm_{options.architecture} in {seconds:.0f} s", *missing.items(), sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
