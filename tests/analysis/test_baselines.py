"""The selectors that are compared with, against their oracles."""

import math

import pytest
import torch

from python_ref import comparison as oracle
from tests.support.inputs import DTYPES, gaussian_tokens, generator, random_weight
from tokenprune_kernels import comparison
from tokenprune_kernels.metrics import prefill_flops, prefill_flops_by_layer


def items(*tensors):
    """The items of a batch with leading dimensions [2, 3]."""
    return zip(*(tensor.flatten(0, 1) for tensor in tensors), strict=True)


@pytest.mark.parametrize("dtype", [*DTYPES, torch.float64], ids=str)
@pytest.mark.parametrize("k", [0, 1, 9, 20])
def test_top_k(dtype, k):
    importance = (random_weight(2, 3, 20) * 8).round().to(dtype) / 8
    importance[..., [3, 7, 11]] = torch.tensor([math.nan, math.inf, -math.inf]).to(dtype)
    importance[0, 0, 5] = -0.0
    kept = comparison.top_k(importance, k)
    assert kept.dtype == torch.int64
    assert [mine.tolist() for mine in kept.flatten(0, 1)] == [oracle.top_k(each, k) for (each,) in items(importance)]


def test_top_k_of_weights_beyond_float32():
    assert comparison.top_k(torch.tensor([1e300, 1.0, -1e300, 2.0], dtype=torch.float64), 4).tolist() == [3, 1, 0, 2]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("share", [0.0, 0.05, 0.25, 0.5, 1.0])
@pytest.mark.parametrize("k", [0, 1, 10, 30])
def test_mixture(dtype, share, k):
    x, importance = gaussian_tokens(2, 3, 30, 16, dtype=dtype), random_weight(2, 3, 30)
    kept = comparison.mixture(x, importance, k, share)
    assert kept.shape == (2, 3, k)
    for mine, tokens, weights in items(kept, x, importance):
        expected = oracle.mixture(tokens, weights, k, share)
        # DivPrune's first pick is tied between two mutual nearest neighbours.
        important = round(share * k)
        assert mine[:important].tolist() == expected[:important]
        assert len(set(mine.tolist())) == k
        if mine[important : important + 1].tolist() == expected[important : important + 1]:
            assert mine.tolist() == expected


def test_mixture_of_one_item_and_its_ends():
    x, importance = gaussian_tokens(40, 8), random_weight(40)
    assert torch.equal(comparison.mixture(x, importance, 12, 1.0), comparison.top_k(importance, 12))
    assert torch.equal(comparison.mixture(x, importance, 12, 0.0), torch.ops.tokenprune.divprune(x, 12))


@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (1, 9), (9, 1), (4, 4), (3, 17), (24, 24), (35, 52)])
def test_a_grid_is_spread_over_the_whole_picture(rows, columns):
    for k in range(min(rows * columns, 60) + 1):
        kept = comparison.grid(rows, columns, k)
        assert kept.dtype == torch.int64
        assert kept.tolist() == sorted(set(kept.tolist()))
        assert len(kept) == k
        assert not k or (int(kept[0]) >= 0 and int(kept[-1]) < rows * columns)
        if not k:
            continue
        lines, counts = (kept // columns).unique(return_counts=True)
        assert counts.max() - counts.min() <= 1
        for places, length in [(lines, rows), *((kept[kept // columns == line] % columns, columns) for line in lines)]:
            gaps = places.diff()
            assert not len(gaps) or gaps.max() - gaps.min() <= 1
            # As far from one border as from the other.
            assert abs(int(places[0]) - (length - 1 - int(places[-1]))) <= 1
    assert comparison.grid(rows, columns, rows * columns).tolist() == list(range(rows * columns))


def test_a_grid_of_squares():
    assert comparison.grid(8, 8, 16).tolist() == [row * 8 + column for row in (1, 3, 5, 7) for column in (1, 3, 5, 7)]
    assert comparison.grid(4, 12, 3).tolist() == [26, 30, 34]


def test_random_is_seeded_nested_and_uniform():
    assert torch.equal(comparison.random(50, 9), comparison.random(50, 20)[:9])
    assert not torch.equal(comparison.random(50, 20, seed=1), comparison.random(50, 20))
    counts = torch.stack([comparison.random(10, 3, seed) for seed in range(3_000)]).flatten().bincount(minlength=10)
    assert (counts - 900).abs().max() < 120


def test_fastv_drops_by_the_attention_of_its_layer():
    attention = random_weight(5, 2, 3, 21)
    indices, counts = comparison.fastv(attention, 2, 0.5)
    assert torch.equal(indices, comparison.top_k(attention[1], 10))
    assert counts == (21, 21, 10, 10, 10)
    assert comparison.fastv(attention, 5, 0.0)[1] == (21,) * 5
    assert comparison.fastv(attention, 1, 0.999)[1] == (21, 1, 1, 1, 1)
    assert prefill_flops_by_layer(counts, 8, 16) == prefill_flops(21, 8, 16, 2) + prefill_flops(10, 8, 16, 3)


@pytest.mark.parametrize(
    ("count", "ratio", "k"), [(15, 0.9, 2), (15, 0.7, 4), (10, 0.95, 1), (25, 0.9, 2), (35, 0.9, 4)]
)
def test_fastv_rounds_halves_to_even(count, ratio, k):
    indices, counts = comparison.fastv(torch.ones(2, count), 1, ratio)
    assert indices.tolist() == list(range(k))
    assert counts == (count, k)


def test_fastv_of_no_tokens():
    assert comparison.fastv(torch.ones(2, 0), 1, 0.5)[1] == (0, 0)


def test_vtw_withdraws_all():
    assert comparison.vtw(576, 2, 5) == (576, 576, 0, 0, 0)
    assert comparison.vtw(576, 0, 2) == (0, 0)
    assert comparison.vtw(576, 2, 2) == (576, 576)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("count", [1, 2, 5, 30, 577])
def test_outliers(dtype, count):
    attention = (4 * random_weight(2, 3, count)).exp().to(dtype)
    attention[0, 1] = 0.25
    mask = comparison.outliers(attention)
    assert mask.shape == attention.shape
    assert [mine.tolist() for mine in mask.flatten(0, 1)] == [oracle.outliers(each) for (each,) in items(attention)]
    assert count < 30 or mask[0, 0].any()
    assert not mask[0, 1].any()


def test_the_quartiles_are_those_of_torch():
    attention = gaussian_tokens(101).exp()
    limit = 2.5 * attention.double().quantile(0.75) - 1.5 * attention.double().quantile(0.25)
    assert torch.equal(comparison.outliers(attention), attention > limit)


@pytest.mark.parametrize("neighbours", [0, 1, 4, 19, 50])
@pytest.mark.parametrize("with_keys", [False, True])
def test_merge(neighbours, with_keys):
    x, attention = gaussian_tokens(2, 3, 20, 6), random_weight(2, 3, 20)
    keys = gaussian_tokens(2, 3, 20, 9, seed=1) if with_keys else None
    kept = torch.rand(2, 3, 20, generator=generator(2)).argsort(dim=-1)[..., :5]
    merged = comparison.merge(x, attention, kept, keys, neighbours)
    for mine, tokens, weights, picks, by in items(merged, x, attention, kept, x if keys is None else keys):
        expected = oracle.merge(tokens, weights, picks.tolist(), by, neighbours)
        torch.testing.assert_close(mine.double(), expected, rtol=1e-5, atol=1e-5)


def test_merge_keeps_the_dtype_and_adds_in_float32():
    x = torch.ones(300, 2, dtype=torch.bfloat16)
    merged = comparison.merge(x, torch.full((300,), 2.0**-9), torch.tensor([0]), neighbours=256)
    assert merged.dtype == torch.bfloat16
    assert merged.tolist() == [[1.5, 1.5]]


X, W = torch.ones(4, 2), torch.ones(4)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: comparison.top_k(W, 5), r"top_k: expected k to be in \[0, N\] with N = 4, got 5"),
        (lambda: comparison.top_k(W, -1), r"top_k: expected k to be in \[0, N\] with N = 4, got -1"),
        (lambda: comparison.mixture(X, W, 5), r"mixture: expected k to be in \[0, N\] with N = 4, got 5"),
        (lambda: comparison.mixture(X, W[1:], 2), r"mixture: expected importance to have shape \[4\] \(x without"),
        (lambda: comparison.mixture(X, W, 2, 1.5), r"mixture: expected share to be in \[0, 1\], got 1.5"),
        (lambda: comparison.mixture(X, W, 2, math.nan), r"mixture: expected share to be in \[0, 1\], got nan"),
        (lambda: comparison.grid(2, 3, 7), r"grid: expected k to be in \[0, N\] with N = 6, got 7"),
        (lambda: comparison.random(3, 4), r"random: expected k to be in \[0, N\] with N = 3, got 4"),
        (lambda: comparison.fastv(X, 0, 0.5), r"fastv: expected layer to be in \[1, 4\], got 0"),
        (lambda: comparison.fastv(X, 5, 0.5), r"fastv: expected layer to be in \[1, 4\], got 5"),
        (lambda: comparison.fastv(X, 1, 1.0), r"fastv: expected ratio to be in \[0, 1\), got 1"),
        (
            lambda: comparison.fastv(W, 1, 0.5),
            r"fastv: expected attention to have shape \[layers, ..., N\], got shape \[4\]",
        ),
        (lambda: comparison.top_k(W[0], 1), r"top_k: expected importance to have shape \[..., N\], got shape \[\]"),
        (lambda: comparison.mixture(W, W, 1), r"mixture: expected x to have shape \[..., N, D\], got shape \[4\]"),
        (lambda: comparison.outliers(W[0]), r"outliers: expected attention to have shape \[..., N\], got shape \[\]"),
        (
            lambda: comparison.merge(W, W[0], torch.tensor([0])),
            r"merge: expected x to have shape \[..., N, D\], got shape \[4\]",
        ),
        (
            lambda: comparison.merge(X, W, torch.tensor(0)),
            r"merge: expected kept to have shape \[..., k\], got shape \[\]",
        ),
        (lambda: comparison.merge(X, W, torch.tensor([0]), W[0]), r"merge: expected keys to have shape \[4\]"),
        (lambda: comparison.vtw(3, 5, 4), r"vtw: expected layer to be in \[0, 4\], got 5"),
        (lambda: comparison.outliers(W[:0]), "outliers: expected at least 1 token, got 0"),
        (lambda: comparison.merge(X, W[1:], torch.tensor([0])), r"merge: expected attention to have shape \[4\]"),
        (lambda: comparison.merge(X, W, torch.tensor([0]), X[1:]), r"merge: expected keys to have shape \[4\]"),
        (
            lambda: comparison.merge(X, W, torch.tensor([0]), X, -1),
            "merge: expected neighbours to be at least 0",
        ),
    ],
)
def test_errors_name_the_argument(call, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        call()
