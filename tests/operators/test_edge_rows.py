"""Rows and weights at the edges of the number formats."""

import math

import pytest
import torch

from tests.support.inputs import (
    DTYPES,
    METHODS,
    arguments,
    exact_tokens,
    exact_weight,
    gaussian_tokens,
    judged,
    ops,
    random_weight,
)
from tests.support.slow import always, not_interpreted_if, slow_if_interpreted

pytestmark = pytest.mark.kernel

NAN, INF = float("nan"), float("inf")


def select(method, x, weight, k, lam=0.5):
    return getattr(ops, method)(*arguments(method, x, weight, k, lam)).tolist()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@slow_if_interpreted(lambda dtype: dtype != torch.bfloat16)
def test_equal_rows_come_lowest_index_first(backend, method, dtype):
    x = gaussian_tokens(1, 37).to(dtype).expand(50, 37)
    assert select(method, x, torch.ones(50), 50) == list(range(50))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@slow_if_interpreted(lambda dtype: dtype != torch.bfloat16)
def test_zero_rows_are_orthogonal_to_everything(backend, method, dtype):
    x = torch.zeros(9, 5, dtype=dtype)
    assert select(method, x, torch.ones(9), 9) == list(range(9))
    x[4] = 1
    judged(method, x, torch.ones(9), 9)
    x[1::3] = 1
    judged(method, x, random_weight(9), 9)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("count", "distinct", "k"), [(576, 40, 144), (50, 12, 20)])
@slow_if_interpreted(lambda dtype, count: dtype != torch.bfloat16 or count > 50)
@not_interpreted_if(lambda dtype, count: dtype != torch.bfloat16 and count > 50)
def test_duplicates_are_kept_once_before_any_twice(backend, method, dtype, count, distinct, k):
    x = exact_tokens(distinct, 64, non_zeros=16, dtype=dtype)[torch.arange(count) % distinct]
    indices, _ = judged(method, x, torch.ones(count), k)
    assert len(set(indices.tolist())) == k
    assert sorted(indices[:distinct].tolist()) == list(range(distinct))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("poison", [NAN, INF, -INF])
@slow_if_interpreted(lambda dtype, poison: dtype != torch.bfloat16 or not math.isnan(poison))
def test_non_finite_rows_come_last_and_influence_nothing(backend, method, dtype, poison):
    x, weight = gaussian_tokens(30, 21).to(dtype), random_weight(30)
    bad = [0, 3, 17, 28, 29]
    good = [row for row in range(30) if row not in bad]
    poisoned = x.clone()
    poisoned[bad, [0, 20, 10, 16, 1]] = poison
    picks = select(method, poisoned, weight, 30)
    assert picks[25:] == bad
    assert picks[:25] == [good[pick] for pick in select(method, x[good], weight[good], 25)]
    _, scores = getattr(ops, method).scores(*arguments(method, poisoned, weight, 30))
    assert scores[:25].isfinite().all()
    assert (scores[25:] == -INF).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize("method", METHODS)
@slow_if_interpreted(lambda dtype: dtype != torch.bfloat16)
def test_a_row_whose_sum_of_squares_overflows_is_non_finite(backend, method, dtype):
    x = gaussian_tokens(12, 16).to(dtype)
    x[5] = 1e19
    judged(method, x, random_weight(12), 12)
    assert select(method, x, random_weight(12), 12)[-1] == 5
    x[5] = 1e18
    assert select(method, x, torch.ones(12), 12)[-1] != 5


@pytest.mark.parametrize("bad", [INF, NAN, 3e19])
def test_a_non_finite_row_is_nobodys_nearest_neighbour(backend, bad):
    indices, scores = ops.divprune.scores(torch.tensor([[1.0, 0.0], [-1.0, 0.0], [bad, 0.0]]), 3)
    assert indices.tolist() == [0, 1, 2]
    assert scores.tolist() == [2.0, 2.0, -INF]


@pytest.mark.parametrize("place", [0, 1])
def test_a_non_finite_row_is_not_the_nearest_of_the_next_row(backend, place):
    rows = torch.tensor([[1.0, 0.0], [-1.0, 0.0]])
    x = torch.cat([rows[:place], torch.tensor([[3e19, 0.0]]), rows[place:]])
    assert ops.divprune(x, 3).tolist() == [*(i for i in range(3) if i != place), place]


@pytest.mark.parametrize("method", METHODS)
def test_a_dot_product_that_overflows_between_finite_rows(backend, method):
    # Both sums of squares round to the largest float32, their dot product to infinity.
    rows = torch.tensor([[1.3141387e19, 1.2945512e19], [1.3141385e19, 1.2945515e19]])
    x = torch.cat([torch.full((1, 2), NAN), rows])
    for lam in (0.5, 1.0):
        assert judged(method, x, torch.ones(3), 3, lam)[0].tolist() == [1, 2, 0]


@slow_if_interpreted(always)
def test_two_rows_are_equally_far_from_each_other(backend):
    pairs = gaussian_tokens(200, 2, 33) * torch.logspace(-3, 3, 200)[:, None, None] * torch.tensor([[1.0], [7.7]])
    _, scores = ops.divprune.scores(pairs, 2)
    assert torch.equal(scores[:, 0], scores[:, 1])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("flush", [False, True])
@not_interpreted_if(lambda flush: flush)  # NumPy, by which the interpreter computes, flushes then too
def test_subnormal_weights_count_whatever_the_caller_flushes(backend, dtype, flush):
    relevance = torch.tensor([0.0, 1e-40, 0.0, 2e-40], dtype=dtype)
    torch.set_flush_denormal(flush)
    try:
        picks = select("mmr", torch.eye(4), relevance, 4)
    finally:
        torch.set_flush_denormal(False)
    assert picks == [3, 1, 0, 2]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@slow_if_interpreted(lambda dtype: dtype != torch.bfloat16)
def test_all_rows_non_finite(backend, method, dtype):
    x = torch.full((6, 4), NAN, dtype=dtype)
    assert select(method, x, torch.ones(6), 6) == list(range(6))


@pytest.mark.parametrize("method", METHODS)
def test_one_finite_row_comes_first(backend, method):
    x = torch.full((6, 4), INF)
    x[3] = 1
    indices, scores = getattr(ops, method).scores(*arguments(method, x, torch.ones(6), 6))
    assert indices.tolist() == [3, 0, 1, 2, 4, 5]
    assert scores[0] == {"divprune": INF, "mmr": 1.0, "idpruner": 0.0, "dpp": 1.0}[method]
    assert (scores[1:] == -INF).all()


@pytest.mark.parametrize("method", ["mmr", "idpruner", "dpp"])
@pytest.mark.parametrize("poison", [NAN, INF, -INF])
@slow_if_interpreted(lambda poison: not math.isnan(poison))
def test_a_row_with_a_non_finite_weight_is_non_finite(backend, method, poison):
    x, weight = gaussian_tokens(10, 8), random_weight(10)
    weight[[2, 7]] = poison
    indices, _ = judged(method, x, weight, 10)
    assert indices[8:].tolist() == [2, 7]


@pytest.mark.parametrize("method", ["mmr", "idpruner", "dpp"])
def test_a_float64_weight_beyond_float32_is_non_finite(backend, method):
    x, weight = gaussian_tokens(10, 8), random_weight(10).double()
    weight[4] = 1e39
    weight[6] = -1e300
    indices, _ = judged(method, x, weight, 10)
    assert indices[8:].tolist() == [4, 6]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("scale", [1e-45, 1e-40, 1e-30, 1e-20, 1e-13, 1e-12, 1e-6, 1e15, 1e18])
@pytest.mark.parametrize("flush", [False, True])
@not_interpreted_if(lambda flush: flush)
@slow_if_interpreted(lambda method, scale: scale != 1e-13 and (method != "divprune" or scale not in (1e-40, 1e18)))
def test_tiny_and_huge_rows(backend, method, scale, flush):
    x = gaussian_tokens(30, 16, seed=3)
    x[::2] *= scale
    torch.set_flush_denormal(flush)
    try:
        indices = getattr(ops, method)(*arguments(method, x, random_weight(30), 30))
    finally:
        torch.set_flush_denormal(False)
    plain, _ = judged(method, x, random_weight(30), 30)
    assert torch.equal(indices, plain)


def test_float16_tokens_at_the_limits_of_the_format(backend):
    limits = torch.finfo(torch.float16)
    x = exact_tokens(40, 16, non_zeros=4, dtype=torch.float16)
    expected = ops.divprune(x, 40)
    for scale in (limits.max, limits.smallest_normal, limits.smallest_normal * 2**-10):
        judged("divprune", x * torch.tensor(scale, dtype=torch.float16), None, 40)
    assert torch.equal(ops.divprune(x * 2.0**-14, 40), expected)


def test_float16_importance_at_the_limits_of_the_format(backend):
    importance = torch.tensor([65504.0, -65504.0, 6e-8, 0.0, 1.0], dtype=torch.float16)
    indices, _ = judged("idpruner", gaussian_tokens(5, 8), importance, 5)
    assert indices[0] == 0


def test_importance_whose_range_overflows_counts_as_constant(backend):
    x = gaussian_tokens(20, 8)
    importance = random_weight(20)
    importance[3], importance[9] = 3e38, -3e38
    indices, _ = judged("idpruner", x, importance, 20)
    assert torch.equal(indices, ops.idpruner(x, torch.zeros(20), 20))


def test_constant_importance_leaves_diversity_alone(backend):
    x = gaussian_tokens(20, 8)
    for constant in (0.0, -0.0, 3.5, -1e30, 1e38):
        assert torch.equal(ops.idpruner(x, torch.full((20,), constant), 20), ops.idpruner(x, torch.zeros(20), 20))


def test_negative_zero_ties_with_zero(backend):
    x = torch.eye(8)
    relevance = torch.tensor([-0.0, 0.0, -0.0, 0.0, 0.0, -0.0, 0.0, -0.0])
    assert ops.mmr(x, relevance, 8).tolist() == list(range(8))


@pytest.mark.parametrize("method", ["mmr", "idpruner"])
def test_lam_one_ranks_by_weight_alone(backend, method):
    x, weight = gaussian_tokens(50, 8), exact_weight(method, 50)
    judged(method, x, weight, 50, lam=1.0)
    expected = weight.sort(descending=True, stable=True).indices
    assert torch.equal(getattr(ops, method)(x, weight, 50, 1.0), expected)


@pytest.mark.parametrize("method", ["mmr", "idpruner"])
@pytest.mark.parametrize("lam", [0.0, 0.1, 0.9, 1e-9])
@slow_if_interpreted(lambda method, lam: (method, lam) not in (("mmr", 0.0), ("idpruner", 0.9)))
def test_lam_across_its_range(backend, method, lam):
    judged(method, gaussian_tokens(60, 12), 4 * random_weight(60), 30, lam)


@pytest.mark.parametrize("largest", [1.0, 1e4, 1e30, 3e38])
@slow_if_interpreted(lambda largest: largest != 3e38)
def test_large_relevance(backend, largest):
    judged("mmr", gaussian_tokens(40, 12), random_weight(40) * largest, 40, lam=0.7)
    judged("mmr", gaussian_tokens(40, 12), -random_weight(40) * largest, 40, lam=1.0)
