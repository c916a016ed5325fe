"""What a call costs that does no work: k = 0 of one row, through the operator, the bare C++ operator and Python."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture

import tokenprune_kernels

CALLS = {
    "operator": torch.ops.tokenprune.divprune,
    "bare C++ operator": torch.ops.tokenprune_native.divprune,
    "Python function": tokenprune_kernels.divprune,
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS.keys())
def test_call_overhead(benchmark: BenchmarkFixture, call: Callable[..., Any]) -> None:
    """Times one way to call."""
    x = torch.ones(1, 16)
    benchmark.group = "divprune, one row, k = 0"
    assert benchmark(call, x, 0).shape == (0,)
