"""Every dtype, shape and layout, judged by the oracle."""

import pytest
import torch

from tests.support.inputs import (
    DTYPES,
    LAYOUTS,
    METHODS,
    WEIGHT_DTYPES,
    arguments,
    clustered_tokens,
    exact_tokens_for,
    exact_weight,
    gaussian_tokens,
    judged,
    ops,
    oracle,
    random_weight,
    with_layout,
)
from tests.support.slow import not_interpreted_if, slow_if, slow_if_interpreted

pytestmark = pytest.mark.kernel

SHAPES = [  # N, D, k
    (0, 5, 0),
    (1, 1, 0),
    (1, 1, 1),
    (5, 4, 0),
    (40, 33, 1),
    (2, 3, 1),
    (3, 1, 3),
    (7, 16, 7),
    (33, 17, 9),
    (64, 31, 20),
    (65, 1000, 12),
    (130, 48, 40),
    (257, 5, 60),
]


def paired(dtype, layout):
    """Whether the dtype is one that the layout is tried in first: contiguous rows in all, other layouts in one each."""
    return layout == "contiguous" or LAYOUTS.index(layout) % len(DTYPES) == DTYPES.index(dtype)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("count", "depth", "k"), SHAPES)
@slow_if_interpreted(lambda count, depth: count > 60 or depth > 64)
@slow_if_interpreted(
    lambda method, layout, count: layout != "contiguous" and (count != 33 or method not in ("divprune", "dpp"))
)
@slow_if_interpreted(lambda dtype, layout, count: layout == "contiguous" and dtype != torch.bfloat16 and count != 7)
@slow_if(lambda dtype, layout: not paired(dtype, layout))
@not_interpreted_if(lambda dtype, layout: not paired(dtype, layout))
@not_interpreted_if(lambda layout, count: layout != "contiguous" and count not in (7, 33, 65))
def test_gaussian_tokens(backend, method, dtype, layout, count, depth, k):
    x = with_layout(gaussian_tokens(count, depth, dtype=dtype, seed=count), layout)
    judged(method, x, random_weight(*x.shape[:-1], seed=depth), k)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@slow_if_interpreted(lambda method, dtype: (method, dtype) != ("divprune", torch.bfloat16))
def test_decisive_inputs_occur_and_match_the_oracle(backend, method, dtype):
    decisive = [
        judged(method, gaussian_tokens(40, 64, dtype=dtype, seed=seed), random_weight(40, seed=seed), 6)[1]
        for seed in range(20)
    ]
    assert sum(decisive) >= 10


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    ("count", "depth", "non_zeros"), [(50, 4, 4), (100, 8, 1), (130, 64, 16), (70, 1024, 64), (40, 2048, 256)]
)
@slow_if_interpreted(lambda method, count: method == "dpp" or count != 50)
@slow_if_interpreted(lambda method, layout: layout != "contiguous" and (method, layout) != ("divprune", "expanded"))
@slow_if(lambda dtype, layout: not paired(dtype, layout))
@not_interpreted_if(lambda dtype, layout: not paired(dtype, layout))
@not_interpreted_if(lambda layout, count: layout != "contiguous" and count != 50)
@not_interpreted_if(lambda dtype, count: dtype != torch.bfloat16 and count not in (50, 40))
@slow_if_interpreted(lambda method, dtype: method != "mmr" and dtype != torch.bfloat16)
def test_exact_arithmetic_inputs_match_the_oracle(backend, method, dtype, layout, count, depth, non_zeros):
    x = exact_tokens_for(method, 2, count, depth, non_zeros=non_zeros, dtype=dtype, seed=count)
    x = with_layout(x, layout)
    weight = exact_weight(method, *x.shape[:-1], seed=depth)
    indices, scores = getattr(ops, method).scores(*arguments(method, x, weight, count))
    expected, expected_scores = oracle(method, x, weight, count)
    assert torch.equal(indices, expected)
    assert torch.equal(scores, expected_scores.float())


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("batch", [(1,), (5,), (2, 3), (1, 2, 2)])
@slow_if_interpreted(lambda method, dtype, batch: method == "dpp" or dtype != torch.bfloat16 or batch != (1,))
@not_interpreted_if(lambda dtype, batch: dtype != torch.bfloat16 and batch != (2, 3))
def test_batches_of_clustered_tokens(backend, method, dtype, batch):
    x = clustered_tokens(60, 24, clusters=7, dtype=dtype)
    x = torch.stack([x.roll(shift, 0) for shift in range(torch.tensor(batch).prod())]).reshape(*batch, 60, 24)
    judged(method, x, random_weight(*batch, 60), 25)


@pytest.mark.parametrize("method", METHODS)
@slow_if_interpreted(lambda method: method != "divprune")
def test_items_of_a_strided_batch_of_many_dimensions(backend, method):
    x = gaussian_tokens(4, 3, 2, 12, 9).permute(2, 0, 1, 3, 4)[:, 1:]
    weight = random_weight(2, 3, 3, 12)
    indices, _ = judged(method, x, weight, 5)
    plain = getattr(ops, method)(*arguments(method, x.contiguous(), weight, 5))
    assert torch.equal(indices, plain)


@pytest.mark.parametrize("dtype", WEIGHT_DTYPES, ids=str)
@pytest.mark.parametrize("method", ["mmr", "idpruner"])
@slow_if_interpreted(lambda method, dtype: method != "mmr" or dtype not in (torch.bfloat16, torch.float64))
def test_weight_dtypes(backend, method, dtype):
    weight = (1000 * random_weight(3, 50, seed=1) - 500).to(dtype)
    x = gaussian_tokens(3, 50, 20)
    indices, _ = judged(method, x, weight, 20)
    assert torch.equal(indices, getattr(ops, method)(x, weight.float(), 20))
    strided = torch.stack([weight, torch.full_like(weight, torch.nan)], dim=-1)[..., 0]
    assert torch.equal(indices, getattr(ops, method)(x, strided, 20))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("shape", "k"), [((0, 4, 3), 2), ((2, 0, 4, 3), 2), ((2, 4, 3), 0), ((2, 0, 3), 0)])
def test_empty_results(backend, method, shape, k):
    x = torch.ones(shape)
    indices, scores = getattr(ops, method).scores(*arguments(method, x, torch.ones(shape[:-1]), k))
    assert indices.shape == scores.shape == (*shape[:-2], k)


@pytest.mark.parametrize("method", METHODS)
@slow_if_interpreted(lambda method: method != "divprune")
def test_the_greatest_depth_of_a_chunk_boundary(backend, method):
    for depth in (1023, 1024, 1025, 4096, 9001):
        judged(method, gaussian_tokens(20, depth, seed=depth), random_weight(20), 8)


@pytest.mark.parametrize("method", METHODS)
def test_gradients_do_not_flow_and_do_not_hinder(backend, method):
    x = gaussian_tokens(12, 6).requires_grad_()
    weight = random_weight(12).requires_grad_()
    indices, scores = getattr(ops, method).scores(*arguments(method, x, weight, 5))
    assert not indices.requires_grad
    assert not scores.requires_grad
    assert torch.equal(indices, getattr(ops, method)(*arguments(method, x.detach(), weight.detach(), 5)))
