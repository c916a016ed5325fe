"""The selectors that papers compare with, against selections made by hand and against the judge."""

import itertools
import math

import pytest
import torch

from tests.support.inputs import DTYPES, gaussian_tokens, random_weight
from tokenprune_kernels import baselines
from tokenprune_kernels.metrics import prefill_flops, prefill_flops_by_layer
from tokenprune_kernels.verify import verify_trace


@pytest.mark.parametrize("dtype", [*DTYPES, torch.float64], ids=str)
@pytest.mark.parametrize("k", range(9))
def test_top_k(dtype, k):
    importance = torch.tensor([0.5, math.nan, 0.5, math.inf, -0.0, 0.0, -math.inf, 1.0]).to(dtype)
    ranking = [7, 0, 2, 4, 5, 1, 3, 6]
    kept = baselines.top_k(torch.stack([importance, importance.flip(0)]).expand(3, 2, 8), k)
    assert kept.dtype == torch.int64
    assert kept.shape == (3, 2, k)
    assert kept[1, 0].tolist() == ranking[:k]
    assert kept[2, 1].tolist() == [0, 5, 7, 2, 3, 1, 4, 6][:k]


def test_top_k_of_weights_beyond_float32():
    assert baselines.top_k(torch.tensor([1e300, 1.0, -1e300, 2.0], dtype=torch.float64), 4).tolist() == [3, 1, 0, 2]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    ("k", "share", "important"), [(0, 0.5, 0), (10, 0.05, 0), (10, 0.25, 2), (10, 0.5, 5), (30, 0.5, 15)]
)
def test_mixture(dtype, k, share, important):
    x, importance = gaussian_tokens(2, 3, 30, 16, dtype=dtype), random_weight(2, 3, 30)
    kept = baselines.mixture(x, importance, k, share)
    assert kept.shape == (2, 3, k)
    assert torch.equal(kept[..., :important], baselines.top_k(importance, important))
    for item in itertools.product(range(2), range(3)):
        others = [row for row in range(30) if row not in kept[item][:important]]
        diverse = torch.tensor([others.index(row) for row in kept[item][important:].tolist()], dtype=torch.int64)
        assert verify_trace("divprune", x[item][others], diverse)


def test_mixture_of_one_item_and_its_ends():
    x, importance = gaussian_tokens(40, 8), random_weight(40)
    assert torch.equal(baselines.mixture(x, importance, 12, 1.0), baselines.top_k(importance, 12))
    assert torch.equal(baselines.mixture(x, importance, 12, 0.0), torch.ops.tokenprune.divprune(x, 12))


@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (1, 9), (9, 1), (4, 4), (3, 17), (24, 24), (35, 52)])
def test_a_grid_is_spread_over_the_whole_picture(rows, columns):
    for k in range(min(rows * columns, 60) + 1):
        kept = baselines.grid(rows, columns, k)
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
    assert baselines.grid(rows, columns, rows * columns).tolist() == list(range(rows * columns))


def test_a_grid_of_squares():
    assert baselines.grid(8, 8, 16).tolist() == [row * 8 + column for row in (1, 3, 5, 7) for column in (1, 3, 5, 7)]
    assert baselines.grid(4, 12, 3).tolist() == [26, 30, 34]


def test_random_is_seeded_nested_and_uniform():
    assert torch.equal(baselines.random(50, 9), baselines.random(50, 20)[:9])
    assert not torch.equal(baselines.random(50, 20, seed=1), baselines.random(50, 20))
    counts = torch.stack([baselines.random(10, 3, seed) for seed in range(3_000)]).flatten().bincount(minlength=10)
    assert (counts - 900).abs().max() < 120


def test_fastv_drops_by_the_attention_of_its_layer():
    attention = random_weight(5, 2, 3, 21)
    indices, counts = baselines.fastv(attention, 2, 0.5)
    assert torch.equal(indices, baselines.top_k(attention[1], 10))
    assert counts == (21, 21, 10, 10, 10)
    assert baselines.fastv(attention, 5, 0.0)[1] == (21,) * 5
    assert baselines.fastv(attention, 1, 0.999)[1] == (21, 1, 1, 1, 1)
    assert prefill_flops_by_layer(counts, 8, 16) == prefill_flops(21, 8, 16, 2) + prefill_flops(10, 8, 16, 3)


@pytest.mark.parametrize(
    ("count", "ratio", "k"), [(15, 0.9, 2), (15, 0.7, 4), (10, 0.95, 1), (25, 0.9, 2), (35, 0.9, 4)]
)
def test_fastv_rounds_halves_to_even(count, ratio, k):
    indices, counts = baselines.fastv(torch.ones(2, count), 1, ratio)
    assert indices.tolist() == list(range(k))
    assert counts == (count, k)


def test_fastv_of_no_tokens():
    assert baselines.fastv(torch.ones(2, 0), 1, 0.5)[1] == (0, 0)


def test_vtw_withdraws_all():
    assert baselines.vtw(576, 2, 5) == (576, 576, 0, 0, 0)
    assert baselines.vtw(576, 0, 2) == (0, 0)
    assert baselines.vtw(576, 2, 2) == (576, 576)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("count", [1, 2, 5, 30, 577])
def test_outliers_exceed_the_quartiles_of_torch(dtype, count):
    attention = (4 * random_weight(2, 3, count)).exp().to(dtype)
    attention[0, 1] = 0.25
    lower, upper = (attention.double().quantile(share, dim=-1, keepdim=True) for share in (0.25, 0.75))
    mask = baselines.outliers(attention)
    assert torch.equal(mask, attention > upper + 1.5 * (upper - lower))
    assert count < 30 or mask[0, 0].any()
    assert not mask[0, 1].any()


def test_a_value_at_the_limit_is_no_outlier():
    # The quartiles are 1 and 3, so the limit is 6.
    assert baselines.outliers(torch.tensor([0.0, 1.0, 2.0, 3.0, 6.0])).tolist() == [False] * 5
    assert baselines.outliers(torch.tensor([0.0, 1.0, 2.0, 3.0, 6.5])).tolist() == [False] * 4 + [True]


TOKENS = torch.tensor([[2.0, 0.0], [1.0, 1.0], [0.0, 3.0], [-1.0, 0.0]])
ATTENTION = torch.tensor([0.125, 0.5, 0.25, 0.75])
OTHER_KEYS = torch.tensor([[1.0, 0.0, 0.0], [-1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [1.0, 1.0, 0.0]])


@pytest.mark.parametrize(
    ("neighbours", "keys", "merged"),
    [
        (0, None, [[2.0, 0.0], [0.0, 3.0]]),
        (1, None, [[2.5, 0.5], [0.5, 3.5]]),
        (2, None, [[2.5, 1.25], [0.75, 3.5]]),  # tokens 0 and 3 are equally near to token 2
        (3, None, [[1.75, 1.25], [0.0, 3.5]]),
        (50, None, [[1.75, 1.25], [0.0, 3.5]]),
        (1, OTHER_KEYS, [[1.25, 0.0], [-0.75, 3.0]]),
    ],
)
def test_merge(neighbours, keys, merged):
    assert baselines.merge(TOKENS, ATTENTION, torch.tensor([0, 2]), keys, neighbours).tolist() == merged


def test_items_are_merged_apart():
    x, attention = torch.stack([TOKENS, TOKENS.flip(0)]), torch.stack([ATTENTION, ATTENTION.flip(0)])
    kept = torch.tensor([[0, 2], [3, 1]]).expand(3, 2, 2)
    merged = baselines.merge(x.expand(3, 2, 4, 2), attention.expand(3, 2, 4), kept, neighbours=1)
    assert merged.tolist() == [[[[2.5, 0.5], [0.5, 3.5]]] * 2] * 3


def test_merge_keeps_the_dtype_and_adds_in_float32():
    x = torch.ones(300, 2, dtype=torch.bfloat16)
    merged = baselines.merge(x, torch.full((300,), 2.0**-9), torch.tensor([0]), neighbours=256)
    assert merged.dtype == torch.bfloat16
    assert merged.tolist() == [[1.5, 1.5]]


X, W = torch.ones(4, 2), torch.ones(4)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: baselines.top_k(W, 5), r"top_k: expected k to be in \[0, N\] with N = 4, got 5"),
        (lambda: baselines.top_k(W, -1), r"top_k: expected k to be in \[0, N\] with N = 4, got -1"),
        (lambda: baselines.mixture(X, W, 5), r"mixture: expected k to be in \[0, N\] with N = 4, got 5"),
        (lambda: baselines.mixture(X, W[1:], 2), r"mixture: expected importance to have shape \[4\] \(x without"),
        (lambda: baselines.mixture(X, W, 2, 1.5), r"mixture: expected share to be in \[0, 1\], got 1.5"),
        (lambda: baselines.mixture(X, W, 2, math.nan), r"mixture: expected share to be in \[0, 1\], got nan"),
        (lambda: baselines.grid(2, 3, 7), r"grid: expected k to be in \[0, N\] with N = 6, got 7"),
        (lambda: baselines.random(3, 4), r"random: expected k to be in \[0, N\] with N = 3, got 4"),
        (lambda: baselines.fastv(X, 0, 0.5), r"fastv: expected layer to be in \[1, 4\], got 0"),
        (lambda: baselines.fastv(X, 5, 0.5), r"fastv: expected layer to be in \[1, 4\], got 5"),
        (lambda: baselines.fastv(X, 1, 1.0), r"fastv: expected ratio to be in \[0, 1\), got 1"),
        (
            lambda: baselines.fastv(W, 1, 0.5),
            r"fastv: expected attention to have shape \[layers, ..., N\], got shape \[4\]",
        ),
        (lambda: baselines.top_k(W[0], 1), r"top_k: expected importance to have shape \[..., N\], got shape \[\]"),
        (lambda: baselines.mixture(W, W, 1), r"mixture: expected x to have shape \[..., N, D\], got shape \[4\]"),
        (lambda: baselines.outliers(W[0]), r"outliers: expected attention to have shape \[..., N\], got shape \[\]"),
        (
            lambda: baselines.merge(W, W[0], torch.tensor([0])),
            r"merge: expected x to have shape \[..., N, D\], got shape \[4\]",
        ),
        (
            lambda: baselines.merge(X, W, torch.tensor(0)),
            r"merge: expected kept to have shape \[..., k\], got shape \[\]",
        ),
        (lambda: baselines.merge(X, W, torch.tensor([0]), W[0]), r"merge: expected keys to have shape \[4\]"),
        (lambda: baselines.vtw(3, 5, 4), r"vtw: expected layer to be in \[0, 4\], got 5"),
        (lambda: baselines.outliers(W[:0]), "outliers: expected at least 1 token, got 0"),
        (lambda: baselines.merge(X, W[1:], torch.tensor([0])), r"merge: expected attention to have shape \[4\]"),
        (lambda: baselines.merge(X, W, torch.tensor([0]), X[1:]), r"merge: expected keys to have shape \[4\]"),
        (
            lambda: baselines.merge(X, W, torch.tensor([0]), X, -1),
            "merge: expected neighbours to be at least 0",
        ),
    ],
)
def test_errors_name_the_argument(call, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        call()
