"""Calls of the operators on a CUDA device."""

import pytest
import torch

from tests.conftest import INTERPRETED
from tests.support.inputs import METHODS, arguments, gaussian_tokens, random_weight
from tests.support.varlen import prefix_sums, varlen_arguments

# The marks of tests that a CUDA device runs.
ON_A_GPU = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
    pytest.mark.skipif(INTERPRETED, reason="TRITON_INTERPRET=1 is for the interpreter, and only for it"),
]
OPERATORS = [name + suffix for suffix in ("", "_varlen") for name in METHODS]

# One bucket for all that is given below, so that it is compiled once: up to 1,024 rows, D a multiple of 64 above 64.
DEPTH, ROWS, LONGEST, TOTAL_K = 256, 1_200, 600, 50
RAGGED = [
    ((600, 0, 500), (30, 0, 10)),
    ((1, 599, 600), (1, 9, 40)),
    ((0, 0, 0), (0, 0, 0)),
    ((300, 300, 300), (5, 0, 45)),
]


def given(operator, seed=0, device="cuda"):
    """Arguments of an operator: two items of 600 rows, or three segments of up to 600 that change with the seed."""
    method, _, varlen = operator.partition("_")
    x = gaussian_tokens(ROWS, DEPTH, dtype=torch.bfloat16, seed=seed).to(device)
    weight = random_weight(ROWS, seed=seed).to(device)
    if not varlen:
        return arguments(method, x.unflatten(0, (2, LONGEST)), weight.unflatten(0, (2, LONGEST)), TOTAL_K)
    sums = (prefix_sums(*counts).to(device) for counts in RAGGED[seed % len(RAGGED)])
    return varlen_arguments(method, x, weight, *sums, TOTAL_K, LONGEST)


def scored(operator):
    return getattr(torch.ops.tokenprune, operator).scores


def assert_equal(result, expected):
    """Indices and the bits of the scores. What differs is counted, and where it does most is shown."""
    for mine, theirs in zip(result, expected, strict=True):
        torch.testing.assert_close(mine.view(torch.int32), theirs.view(torch.int32), rtol=0, atol=0)
