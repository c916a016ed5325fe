"""Forced block sizes of the native backend. They change no bit of a result."""

import itertools

import pytest
import torch

from tests.support.block_sizes import COUNT, NEVER, PLAIN, BlockSizes, block_sizes, scored, with_broken_rows
from tests.support.inputs import (
    METHODS,
    WITH_INITIAL,
    arguments,
    clustered_tokens,
    exact_tokens,
    exact_weight,
    gaussian_tokens,
    judged,
    ops,
    oracle,
    random_weight,
)

pytestmark = pytest.mark.kernel

SIZES = [
    PLAIN,
    BlockSizes(1, 1, 1, 1, 1, NEVER),
    BlockSizes(1, 1, 1, 1, 1, 1),
    BlockSizes(2, 3, 1, 7, 8, 2),
    BlockSizes(2, 16, 2, 2, 100, NEVER),
    BlockSizes(7, 2, 3, 16, 33, 5),
    BlockSizes(2, 16, 2, 2, 16, NEVER, 1),
    BlockSizes(7, 2, 3, 9, 33, 5, 4),
    BlockSizes(33, 8, 32, 33, 20, NEVER),
    BlockSizes(33, 8, 32, 33, 20, 1),
    BlockSizes(64, 64, 17, 149, 1, 20),
    BlockSizes(COUNT, 1, 1, COUNT - 1, COUNT, 1),
    BlockSizes(COUNT, 64, COUNT, 150, 7, NEVER),
    BlockSizes(10 * COUNT, 10 * COUNT, 10 * COUNT, 10 * COUNT, 10 * COUNT, 1),
]


@pytest.mark.parametrize("method", WITH_INITIAL)
@pytest.mark.parametrize("sizes", SIZES)
def test_initial_rows(method, sizes):
    x, weight, initial = with_broken_rows(), random_weight(COUNT), torch.arange(1, COUNT, 4)
    with block_sizes(PLAIN):
        expected = scored(method, x, weight, 90, 0.3, initial)
    with block_sizes(sizes):
        assert all(map(torch.equal, scored(method, x, weight, 90, 0.3, initial), expected))


def few_distinct_rows():
    return gaussian_tokens(20, 24)[torch.arange(COUNT) * 7 % 20]


def noise_with_an_outlier():
    return torch.cat([2.0 + gaussian_tokens(COUNT - 1, 24), -torch.ones(1, 24)])


def a_line():
    angle = torch.linspace(0, 1.5, COUNT)
    return torch.stack([angle.cos(), angle.sin()], dim=1)


INPUTS = {
    "gaussian": lambda: gaussian_tokens(COUNT, 24),
    "clustered": lambda: clustered_tokens(COUNT, 24, clusters=9),
    "few distinct rows": few_distinct_rows,
    "equal rows": lambda: torch.ones(COUNT, 24),
    "a line": a_line,
    "noise with an outlier": noise_with_an_outlier,
    "broken rows": with_broken_rows,
    "ties": lambda: exact_tokens(COUNT, 32, non_zeros=16),
    "orthogonal or equal rows": lambda: exact_tokens(COUNT, 64, non_zeros=1),
}


@pytest.mark.parametrize("sizes", SIZES[1:], ids=str)
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("tokens", INPUTS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
def test_every_size_gives_the_same_bits(tokens, method, sizes, dtype):
    x, weight = INPUTS[tokens]().to(dtype), random_weight(COUNT)
    for k, lam in itertools.product((1, 40, COUNT), (0.5,) if method in ("divprune", "dpp") else (0.0, 0.5, 1.0)):
        with block_sizes(PLAIN):
            expected = scored(method, x, weight, k, lam)
        with block_sizes(sizes):
            result = scored(method, x, weight, k, lam)
        for mine, theirs in zip(result, expected, strict=True):
            assert torch.equal(mine, theirs)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float16], ids=str)
def test_long_rows_have_the_same_bits_by_row_and_by_tile(dtype, method):
    x, weight = clustered_tokens(60, 7 * 1_024 + 5, clusters=9).to(dtype), random_weight(60)
    with block_sizes(PLAIN):  # products by tile, but for those of the norms
        expected = scored(method, x, weight, 30, 0.5)
    with block_sizes(BlockSizes(7, 2, 3, 16, 33, 1)):
        assert all(map(torch.equal, scored(method, x, weight, 30, 0.5), expected))


@pytest.mark.parametrize("sizes", [*SIZES, BlockSizes()], ids=str)
@pytest.mark.parametrize("method", METHODS)
def test_every_size_matches_the_oracle(method, sizes):
    with block_sizes(sizes):
        for tokens in ("gaussian", "clustered", "noise with an outlier"):
            judged(method, INPUTS[tokens](), random_weight(COUNT), 60)
        x = INPUTS["orthogonal or equal rows" if method == "dpp" else "ties"]()
        weight = exact_weight(method, COUNT)
        assert torch.equal(
            getattr(ops, method)(*arguments(method, x, weight, COUNT)), oracle(method, x, weight, COUNT)[0]
        )


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("tokens", [gaussian_tokens, lambda *shape: clustered_tokens(*shape, clusters=40)])
def test_sizes_and_threads_in_full_size(threads, method, tokens):
    x, weight = tokens(1_400, 64), random_weight(1_400)
    results = []
    plain = BlockSizes(1, 64, 1, 1_400, 1_400, 1_400)
    each = [plain, BlockSizes(signature_after=1_400), BlockSizes(signature_after=1)]
    for count, sizes in itertools.product((1, 2, 5), each):
        threads(count)
        with block_sizes(sizes):
            results.append(scored(method, x, weight, 300))
    for result in results[1:]:
        for mine, theirs in zip(result, results[0], strict=True):
            assert torch.equal(mine, theirs)


# MMR uses signatures if it picks many rows and lam is small.
@pytest.mark.parametrize(("method", "lam"), [("divprune", 0.5), ("mmr", 0.1), ("idpruner", 0.0)])
@pytest.mark.parametrize("tokens", [gaussian_tokens, lambda *shape: clustered_tokens(*shape, clusters=40)])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
def test_signatures_of_long_rows_change_no_bit(threads, dtype, tokens, method, lam):
    x, weight = tokens(400, 1_600).to(dtype), random_weight(400)
    x[7::50], x[9::50] = torch.nan, 0.0
    with block_sizes(BlockSizes(signature_after=400)):
        expected = scored(method, x, weight, 200, lam)
    for count, after in itertools.product((1, 2, 5), (0, 1)):
        threads(count)
        with block_sizes(BlockSizes(signature_after=after)):
            for mine, theirs in zip(scored(method, x, weight, 200, lam), expected, strict=True):
                assert torch.equal(mine, theirs)


@pytest.mark.parametrize("clusters", [3, 40, 1_000])
@pytest.mark.parametrize("spread", [0.3, 0.02])
def test_groups_of_many_rows_change_no_bit(threads, clusters, spread):
    generator = torch.Generator().manual_seed(clusters)
    centres = torch.nn.functional.normalize(torch.randn(clusters, 32, generator=generator))
    x = centres[torch.randint(clusters, (3_000,), generator=generator)]
    x += spread / 32**0.5 * torch.randn(x.shape, generator=generator)
    x[7::500], x[9::500] = torch.nan, 0.0
    expected = scored("divprune", x, None, 100)
    for count, sizes in itertools.product((1, 3), (BlockSizes(grouped_rows=1), BlockSizes(8, grouped_rows=100))):
        threads(count)
        with block_sizes(sizes):
            for mine, theirs in zip(scored("divprune", x, None, 100), expected, strict=True):
                assert torch.equal(mine, theirs)


@pytest.mark.parametrize("chunk", [1, 2, 5, 6])
def test_the_outlier_block_is_compared_with_the_last_pruned_row(chunk):
    e = torch.eye(5)
    opposite, aside = -0.5 * e[0] + 0.75**0.5 * e[1], 0.5 * e[0] + 0.75**0.5 * e[2]
    near, far = 0.6 * e[3] + 0.8 * e[4], -0.2 * e[3] + 0.96**0.5 * e[4]
    # The first row is the top outlier. Only the last row, pruned by then, shows that the sixth is not.
    x = torch.stack([e[0], opposite, opposite, aside, aside, e[3], far, near])
    with block_sizes(BlockSizes(outlier_block=8, pruned_chunk=chunk)):
        assert ops.divprune(x, 1).tolist() == [0]
