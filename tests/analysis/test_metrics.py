"""The measures against their definitions, written out in Python floats."""

import itertools
import math
import re

import pytest
import torch

from tests.support.inputs import gaussian_tokens, generator, random_weight
from tokenprune_kernels import metrics
from tokenprune_kernels.metrics import (
    angle_histogram,
    coverage,
    hopkins,
    importance_retention,
    mean_distance,
    prefill_flops,
    prefill_flops_by_layer,
    smallest_distance,
)

LLAVA_1_5_7B = {"d": 4096, "m": 11008, "layers": 32}


@pytest.fixture(autouse=True, params=[512, 3], ids=["one block", "many blocks"])
def _blocks(request, monkeypatch):
    monkeypatch.setattr(metrics, "_BLOCK_ROWS", request.param)


def cosine(a, b):
    norms = math.hypot(*a) * math.hypot(*b)
    return math.fsum(p * q for p, q in zip(a, b, strict=True)) / norms if norms else 0.0


def distance(a, b):
    return 1.0 - cosine(a, b)


def tokens(*shape, seed=0, dtype=torch.float32):
    x = gaussian_tokens(*shape, seed=seed, dtype=dtype)
    x[..., 2, :] = 0.0
    return x


def each_item(x):
    return x.flatten(0, -3).tolist() if x.dim() > 2 else [x.tolist()]


def picks_of(kept):
    return kept.reshape(math.prod(kept.shape[:-1]), kept.shape[-1]).tolist()


def assert_is(result, expected):
    torch.testing.assert_close(
        result.flatten(), torch.tensor(expected, dtype=torch.float64), rtol=1e-9, atol=1e-12, check_dtype=True
    )


@pytest.mark.parametrize("leading", [(), (2, 3)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_distances_between_the_kept_tokens(leading, dtype):
    x = tokens(*leading, 7, 4, dtype=dtype)
    pairs = [[distance(a, b) for a, b in itertools.combinations(item, 2)] for item in each_item(x)]
    assert_is(smallest_distance(x), [min(item) for item in pairs])
    assert_is(mean_distance(x), [sum(item) / len(item) for item in pairs])


@pytest.mark.parametrize("leading", [(), (2, 3)], ids=str)
@pytest.mark.parametrize("k", [1, 4, 11])
def test_coverage_is_that_of_the_dropped_tokens(leading, k):
    x = tokens(*leading, 11, 4)
    kept = torch.rand(*leading, 11, generator=generator(1)).argsort(dim=-1)[..., :k]
    means, worst = [], []
    for item, picks in zip(each_item(x), picks_of(kept), strict=True):
        nearest = [min(distance(item[i], item[j]) for j in picks) for i in range(11) if i not in picks]
        means.append(sum(nearest) / len(nearest) if nearest else 0.0)
        worst.append(max(nearest, default=0.0))
    mean, largest = coverage(x, kept)
    assert_is(mean, means)
    assert_is(largest, worst)


@pytest.mark.parametrize("leading", [(), (2, 3)], ids=str)
@pytest.mark.parametrize("k", [0, 1, 4, 9])
def test_retention_is_a_share_of_the_most_that_k_tokens_hold(leading, k):
    importance = random_weight(*leading, 9)
    kept = torch.rand(*leading, 9, generator=generator(1)).argsort(dim=-1)[..., :k]
    shares = []
    for weights, picks in zip(importance.reshape(-1, 9).tolist(), picks_of(kept), strict=True):
        most = max(sum(choice) for choice in itertools.combinations(weights, k))
        shares.append(sum(weights[i] for i in picks) / most if most else 1.0)
    assert_is(importance_retention(importance, kept), shares)
    assert float(importance_retention(torch.zeros(3), torch.tensor([1]))) == 1.0


@pytest.mark.parametrize("leading", [(), (2,)], ids=str)
@pytest.mark.parametrize("draws", [None, 5, 40])
def test_hopkins_is_its_definition(leading, draws):
    x, count = tokens(*leading, 8, 4), draws or 8
    points = torch.randn(count, 4, generator=generator(3), dtype=torch.float64).tolist()
    expected = []
    for item in each_item(x):
        w = sum(min(distance(a, b) for j, b in enumerate(item) if j != i) for i, a in enumerate(item)) / 8
        u = sum(min(distance(point, b) for b in item) for point in points) / count
        expected.append(u / (u + w))
    assert_is(hopkins(x, draws=draws, seed=3), expected)


@pytest.mark.parametrize("leading", [(), (2,)], ids=str)
def test_hopkins_of_draws_among_the_tokens(leading):
    x = tokens(*leading, 12, 4)
    kept = x[..., 3:9, :]
    drawn = torch.randint(12, (6,), generator=generator(5)).tolist()
    expected = []
    for item in each_item(x):
        chosen = item[3:9]
        w = sum(min(distance(a, b) for j, b in enumerate(chosen) if j != i) for i, a in enumerate(chosen)) / 6
        u = sum(min(distance(item[i], b) for b in chosen) for i in drawn) / 6
        expected.append(max(u, 0.0) / (u + w))
    assert_is(hopkins(kept, within=x, seed=5), expected)


@pytest.mark.parametrize("poison", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("place", [0, 4])
@pytest.mark.parametrize(
    "measure",
    [
        smallest_distance,
        mean_distance,
        hopkins,
        lambda x: hopkins(x, within=tokens(2, 9, 4, seed=1)),
        lambda x: hopkins(tokens(2, 5, 4, seed=1), within=x, draws=60),
        lambda x: coverage(x, torch.tensor([[0, 1, 2]] * 2))[0],
        lambda x: coverage(x, torch.tensor([[0, 1, 2]] * 2))[1],
    ],
    ids=["smallest", "mean", "hopkins", "hopkins of", "hopkins among", "coverage", "worst coverage"],
)
def test_a_token_that_is_not_finite_leaves_no_number(measure, place, poison):
    x = tokens(2, 6, 4)
    x[1, place, 3] = poison
    measured = measure(x)
    assert measured[0].isfinite()
    assert measured[1].isnan()


def test_hopkins_tells_even_from_random_from_clustered():
    angle = torch.arange(60) * math.tau / 60
    even = torch.stack([angle.cos(), angle.sin()], dim=1)
    random = gaussian_tokens(4_000, 2)
    clustered = even[:3].repeat(20, 1) + 1e-3 * gaussian_tokens(60, 2)
    statistics = [float(hopkins(x, draws=4_000)) for x in (even, random, clustered)]
    assert statistics[0] < 0.3
    assert statistics[1] == pytest.approx(0.5, abs=0.1)
    assert statistics[2] > 0.99
    assert float(hopkins(torch.ones(5, 3), within=torch.ones(4, 3))) == 0.5


def test_a_random_selection_has_one_half_among_its_tokens():
    x = gaussian_tokens(2_000, 24)
    assert float(hopkins(x[:200], within=x[200:], draws=1_000)) == pytest.approx(0.5, abs=0.02)


def test_draws_do_not_depend_on_the_batch():
    x = tokens(3, 9, 5)
    torch.testing.assert_close(hopkins(x)[1], hopkins(x[1]), rtol=1e-12, atol=0)
    assert (hopkins(x, seed=1) - hopkins(x)).abs().min() > 1e-6


@pytest.mark.parametrize("leading", [(), (2, 2)], ids=str)
@pytest.mark.parametrize("bins", [1, 7, 180])
def test_every_pair_is_in_the_bin_of_its_angle(leading, bins):
    x = tokens(*leading, 8, 3)
    expected = []
    for item in each_item(x):
        counts = [0] * bins
        for a, b in itertools.combinations(item, 2):
            counts[min(bins - 1, int(math.acos(cosine(a, b)) / math.pi * bins))] += 1
        expected.append(counts)
    histogram = angle_histogram(x, bins)
    assert histogram.dtype == torch.int64
    assert histogram.reshape(-1, bins).tolist() == expected


def test_angles_at_the_ends_of_the_range():
    assert angle_histogram(torch.tensor([[1.0, 0.0], [-3.0, 0.0]]), 4).tolist() == [0, 0, 0, 1]
    assert angle_histogram(torch.ones(2, 3), 4).tolist() == [1, 0, 0, 0]
    assert angle_histogram(torch.ones(1, 3), 2).tolist() == [0, 0]


KEPT = torch.tensor([0, 1])
X = torch.ones(4, 2)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: smallest_distance(X[:1]), "smallest_distance: expected at least 2 tokens, got 1"),
        (lambda: mean_distance(X[:1]), "mean_distance: expected at least 2 tokens, got 1"),
        (lambda: hopkins(X[:1]), "hopkins: expected at least 2 tokens, got 1"),
        (lambda: hopkins(X, draws=0), "hopkins: expected at least 1 draw, got 0"),
        (lambda: hopkins(X, within=X[:0]), r"hopkins: expected within to have shape \['N', 2\], got shape \[0, 2\]"),
        (lambda: hopkins(X, within=torch.ones(3, 3)), "hopkins: expected within to have shape"),
        (lambda: angle_histogram(X, 0), "angle_histogram: expected at least 1 bin, got 0"),
        (lambda: angle_histogram(X * math.nan), "angle_histogram: expected tokens to be finite, got nan"),
        (lambda: angle_histogram(X * -math.inf), "angle_histogram: expected tokens to be finite, got -inf"),
        (lambda: coverage(X, KEPT[:0]), "coverage: expected at least 1 kept token, got 0"),
        (lambda: coverage(X, KEPT.int()), r"coverage: expected kept to be int64 \['k'\], got torch.int32 \[2\]"),
        (lambda: coverage(X, KEPT[None]), r"coverage: expected kept to be int64 \['k'\], got torch.int64 \[1, 2\]"),
        (lambda: coverage(X, KEPT + 3), r"coverage: expected kept to be in \[0, 4\), got 4"),
        (lambda: coverage(X, KEPT - 1), r"coverage: expected kept to be in \[0, 4\), got -1"),
        (lambda: coverage(X, KEPT * 0), "coverage: expected kept to hold each token once, got 0 twice"),
        (
            lambda: importance_retention(torch.tensor([1.0, -2.0]), KEPT),
            "importance_retention: expected importance to be finite and at least 0, got -2",
        ),
        (
            lambda: importance_retention(torch.tensor([1.0, math.nan]), KEPT),
            "importance_retention: expected importance to be finite and at least 0, got nan",
        ),
        (lambda: importance_retention(torch.ones(2), KEPT + 1), "importance_retention: expected kept to be in"),
    ],
)
def test_what_cannot_be_measured_is_named(call, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        call()


NUMBER = torch.tensor(1.0)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: smallest_distance(X[0]),
            "smallest_distance: expected tokens to have shape [..., k, D], got shape [2]",
        ),
        (lambda: mean_distance(NUMBER), "mean_distance: expected tokens to have shape [..., k, D], got shape []"),
        (lambda: hopkins(X[0]), "hopkins: expected tokens to have shape [..., k, D], got shape [2]"),
        (lambda: hopkins(X, within=NUMBER), "hopkins: expected within to have shape [..., N, D], got shape []"),
        (lambda: hopkins(X, within=X[0]), "hopkins: expected within to have shape [..., N, D], got shape [2]"),
        (lambda: coverage(NUMBER, KEPT), "coverage: expected x to have shape [..., N, D], got shape []"),
        (lambda: coverage(X[0], KEPT), "coverage: expected x to have shape [..., N, D], got shape [2]"),
        (lambda: coverage(X, KEPT[0]), "coverage: expected kept to have shape [..., k], got shape []"),
        (lambda: angle_histogram(X[0]), "angle_histogram: expected tokens to have shape [..., k, D], got shape [2]"),
        (
            lambda: importance_retention(NUMBER, KEPT),
            "importance_retention: expected importance to have shape [..., N], got shape []",
        ),
        (
            lambda: importance_retention(X[0], KEPT[0]),
            "importance_retention: expected kept to have shape [..., k], got shape []",
        ),
    ],
)
def test_too_few_dimensions_are_named(call, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        call()


def test_operations_are_those_of_projections_attention_and_feed_forward():
    assert prefill_flops(n=2, d=3, m=5, layers=7) == 7 * (4 * 2 * 3 * 3 + 2 * 2 * 2 * 3 + 2 * 2 * 3 * 5)
    assert prefill_flops(n=576, **LLAVA_1_5_7B) == 2_986_076_012_544
    assert prefill_flops(0, 3, 5, 7) == prefill_flops(2, 3, 5, 0) == 0


def test_operations_of_layers_that_see_different_numbers_of_tokens():
    assert prefill_flops_by_layer([4, 4, 2], 3, 5) == 2 * prefill_flops(4, 3, 5, 1) + prefill_flops(2, 3, 5, 1)
    assert prefill_flops_by_layer([], 3, 5) == 0


def test_dropping_tokens_saves_more_than_their_share():
    whole, pruned = (prefill_flops(n, **LLAVA_1_5_7B) for n in (1_000, 100))
    assert 0 < pruned < whole / 10


@pytest.mark.parametrize("name", ["n", "d", "m", "layers"])
def test_negative_sizes_are_an_error(name):
    sizes = {"n": 2, "d": 3, "m": 5, "layers": 7} | {name: -1}
    with pytest.raises(ValueError, match=f"prefill_flops: expected {name} to be at least 0, got -1"):
        prefill_flops(**sizes)
