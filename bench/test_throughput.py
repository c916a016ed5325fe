"""Operators against the oracle, grouped by shape: ``make bench``.

Each benchmark's ``extra_info`` has ``elements_per_second`` (elements of x) and ``gigabytes_per_second`` (bytes of x,
10^9 to a gigabyte), from the median. A selection that the float64 replay rejects is not timed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor

import python_ref
import tokenprune_kernels  # noqa: F401  registers torch.ops.tokenprune

WARM_UP_ROUNDS = 2
ROUNDS = {"op": 15, "oracle": 3}
LAM = 0.5


@dataclass(frozen=True)
class Case:
    """One operator on one shape; x is ``[*leading, D]`` and k rows of each item or segment are kept."""

    method: str
    leading: tuple[int, ...]
    dimensions: int
    k: int
    segments: tuple[int, ...] = ()

    @property
    def operator(self) -> str:
        """The name of the operator and of its oracle."""
        return f"{self.method}_varlen" if self.segments else self.method

    def __str__(self) -> str:
        sizes = "+".join(map(str, self.segments)) if self.segments else "x".join(map(str, self.leading))
        return f"{self.operator} {sizes}x{self.dimensions} k={self.k}"


DENSE_SHAPES = (((576,), 1024, 58), ((1024,), 1024, 102), ((8, 576), 1024, 58))
SEGMENTS = (256, 576, 1024, 400)
CASES = [
    *(Case(method, *shape) for method in ("divprune", "mmr", "idpruner") for shape in DENSE_SHAPES),
    Case("divprune", (sum(SEGMENTS),), 1024, 40, SEGMENTS),
]


def clustered_tokens(leading: tuple[int, ...], dimensions: int, dtype: torch.dtype) -> Tensor:
    """Seeded tokens ``[*leading, D]`` with a common direction and 32 clusters, as the tokens of a picture have."""
    generator = torch.Generator().manual_seed(0)
    centres = 1.0 + torch.randn(32, dimensions, generator=generator)
    cluster = torch.randint(32, leading, generator=generator)
    return (centres[cluster] + torch.randn(*leading, dimensions, generator=generator)).to(dtype)


@pytest.mark.parametrize("implementation", ["op", "oracle"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=["bf16", "fp32"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_throughput(benchmark: BenchmarkFixture, case: Case, dtype: torch.dtype, implementation: str) -> None:
    """Checks the selection in float64, then times it."""
    x = clustered_tokens(case.leading, case.dimensions, dtype)
    weight = None if case.method == "divprune" else torch.rand(case.leading, generator=torch.Generator().manual_seed(1))
    select, verify = _prepared(case, x, weight, implementation)
    trace = verify(select())
    assert trace, f"no time for a wrong selection: step {trace.step} of item {trace.item}, {trace.reason}"

    benchmark.group = str(case)
    benchmark.pedantic(select, rounds=ROUNDS[implementation], warmup_rounds=WARM_UP_ROUNDS)
    if benchmark.stats:  # there are none with --benchmark-disable
        median = benchmark.stats.stats.median
        benchmark.extra_info["elements_per_second"] = x.numel() / median
        benchmark.extra_info["gigabytes_per_second"] = x.numel() * x.element_size() / median / 1e9


def _prepared(
    case: Case, x: Tensor, weight: Tensor | None, implementation: str
) -> tuple[Callable[[], Tensor], Callable[[Tensor], python_ref.Trace]]:
    """A call that returns the indices, and their check."""
    lams = () if weight is None else (LAM,)
    tensors = (x,) if weight is None else (x, weight)
    if case.segments:
        cu_seqlens = torch.tensor([0, *case.segments]).cumsum(0).int()
        cu_k = case.k * torch.arange(len(case.segments) + 1, dtype=torch.int32)
        budget: tuple[Any, ...] = (cu_seqlens, cu_k, int(cu_k[-1]), max(case.segments))
    else:
        budget = (case.k,)

    def operator() -> Tensor:
        return getattr(torch.ops.tokenprune, case.operator)(*tensors, *budget, *lams)

    def oracle() -> Tensor:
        return getattr(python_ref, case.operator)(*tensors, *budget, *lams)[0]

    def verify(indices: Tensor) -> python_ref.Trace:
        if case.segments:
            cu_seqlens, cu_k = budget[:2]
            return python_ref.verify_trace_varlen(case.method, x, indices, cu_seqlens, cu_k, weight, LAM)
        return python_ref.verify_trace(case.method, x, indices, weight, LAM)

    return (operator if implementation == "op" else oracle), verify
