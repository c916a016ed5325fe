"""The benchmark's inputs, in their full size, through the float64 replay: photographs, video, clusters, noise."""

import pytest
import torch

from tests.support.inputs import arguments
from tokenprune_kernels.verify import verify_trace

cases = pytest.importorskip("bench.cpu.cases", reason="the benchmarks are only in the source tree")

INPUTS = [case for case in cases.cases() if case.tokens.count <= 6_400 and case.tokens.items is None]


@pytest.mark.slow
@pytest.mark.parametrize("case", INPUTS, ids=str)
def test_the_selection_is_right(threads, case):
    task = cases.task(case)
    given = arguments(case.method, task.x, task.weight, task.k, cases.LAM)
    operator = getattr(torch.ops.tokenprune, case.method).scores
    indices, scores = operator(*given)
    verdict = verify_trace(case.method, task.x, indices, task.weight, cases.LAM, scores)
    assert verdict, verdict
    threads(1)
    for mine, theirs in zip(operator(*given), (indices, scores), strict=True):
        assert torch.equal(mine, theirs)
