"""The throughput of the operators and their peers under pytest-benchmark: ``make bench-throughput``.

The selections are those of ``python -m bench cpu --quick``, each judged before it is timed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture

import tokenprune_kernels
from bench import judge
from bench.cases import Case, quick_cpu_cases, task
from bench.devices.cpu import rounds_for
from bench.peers import CPU_PEERS, OPERATOR, Implementation

PAIRS = [
    (case, implementation)
    for case in quick_cpu_cases()
    for implementation in (OPERATOR, *CPU_PEERS)
    if implementation.applies(case) and not implementation.compiled
]
CALLS = {
    "operator": torch.ops.tokenprune.divprune,
    "bare C++ operator": torch.ops.tokenprune_native.divprune,
    "Python function": tokenprune_kernels.divprune,
}


@pytest.mark.parametrize(
    ("case", "implementation"), PAIRS, ids=[f"{case}: {implementation.name}" for case, implementation in PAIRS]
)
def test_throughput(benchmark: BenchmarkFixture, case: Case, implementation: Implementation) -> None:
    if reason := implementation.left_out(case):
        pytest.skip(reason)
    given = task(case)
    select = implementation.prepare(given)
    picks = given.tokens.picks(select(given.x))
    mistake = judge.mistake_of_items(given.method, given.tokens, given.x, picks, given.weight)
    benchmark.group = str(case)
    benchmark.extra_info["wrong"] = mistake
    if implementation is OPERATOR:
        assert not mistake
    result = benchmark.pedantic(select, (given.x,), rounds=rounds_for(0.02), warmup_rounds=1)
    assert judge.same(given.tokens.picks(result), picks)


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS.keys())
def test_call_overhead(benchmark: BenchmarkFixture, call: Callable[..., Any]) -> None:
    """What a call costs that does no work: k = 0 of one row."""
    x = torch.ones(1, 16)
    benchmark.group = "divprune, one row, k = 0"
    assert benchmark(call, x, 0).shape == (0,)
