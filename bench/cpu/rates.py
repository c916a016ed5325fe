"""The rates that the lower bound is taken at."""

from __future__ import annotations

import functools
from collections.abc import Callable
from time import perf_counter

import torch
from torch import Tensor

from .bound import Rates

EDGE = 2_048
PRODUCTS, READS = 5, 20


def rates(x: Tensor) -> Rates:
    """What x can be multiplied and read at."""
    return Rates(product_rate(x.dtype), read_rate(x))


@functools.cache
def product_rate(dtype: torch.dtype) -> float:
    """Operations per second of a product of two 2048 x 2048 matrices."""
    a, b = (torch.randn(EDGE, EDGE, generator=torch.Generator().manual_seed(seed)).to(dtype) for seed in (0, 1))
    return 2 * EDGE**3 / _least_seconds(lambda: a @ b, PRODUCTS)


def read_rate(x: Tensor) -> float:
    """Bytes per second of a sum over x, taken as float32 values so that no conversion slows it down."""
    values = x.contiguous().view(torch.float32)
    return x.nbytes / _least_seconds(values.sum, READS)


def _least_seconds(run: Callable[[], object], runs: int) -> float:
    run()
    seconds = []
    for _ in range(runs):
        start = perf_counter()
        run()
        seconds.append(perf_counter() - start)
    return min(seconds)
