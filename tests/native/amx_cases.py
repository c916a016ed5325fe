"""Tests of the AMX kernels. `test_amx.py` runs this file in a process that has AMX, or an emulator of it."""

import ctypes

import pytest
import torch

from tests.support.block_sizes import PLAIN, BlockSizes, block_sizes, scored, with_broken_rows
from tests.support.inputs import (
    METHODS,
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
from tests.support.isa import instruction_set, native_build

pytestmark = pytest.mark.kernel


def test_bfloat16_alone_is_multiplied_in_tiles():
    built = native_build()
    assert built["isa"] == "amx"
    assert built["isa_by_dtype"] == {"bfloat16": "amx", "float16": "avx512", "float32": "avx512"}
    emulator = ctypes.CDLL(None)
    if hasattr(emulator, "amx_emulator_products"):
        for dtype in (torch.bfloat16, torch.float16, torch.float32):
            before = emulator.amx_emulator_products()
            ops.divprune(gaussian_tokens(20, 64).to(dtype), 2)
            assert (emulator.amx_emulator_products() > before) == (dtype == torch.bfloat16)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32], ids=str)
@pytest.mark.parametrize("method", METHODS)
def test_other_dtypes_have_the_bits_of_avx512(method, dtype):
    x, weight = clustered_tokens(200, 1_600, clusters=30).to(dtype), random_weight(200)
    mine = scored(method, x, weight, 150)
    with instruction_set("avx512"):
        theirs = scored(method, x, weight, 150)
    assert all(torch.equal(a, b) for a, b in zip(mine, theirs, strict=True))


@pytest.mark.parametrize("method", METHODS)
# D with and without a remainder of an instruction and of a chunk, and rows with and without one of a tile.
@pytest.mark.parametrize(
    ("count", "depth"), [(2, 5), (17, 1), (33, 31), (40, 33), (16, 512), (32, 513), (65, 1000), (90, 64)]
)
def test_judged(method, count, depth):
    judged(method, gaussian_tokens(count, depth).bfloat16(), random_weight(count), count)


@pytest.mark.parametrize("method", METHODS)
def test_ties_go_to_the_lowest_index(method):
    x, weight = exact_tokens(70, 32, non_zeros=16).bfloat16(), exact_weight(method, 70)
    assert torch.equal(getattr(ops, method)(*arguments(method, x, weight, 70)), oracle(method, x, weight, 70)[0])


@pytest.mark.parametrize("tokens", [lambda: clustered_tokens(90, 40, clusters=9), with_broken_rows])
@pytest.mark.parametrize(
    "sizes",
    [
        PLAIN,
        BlockSizes(7, 2, 3, 16, 33, 1),
        BlockSizes(33, 20, 32, 33, 20, 3),
        BlockSizes(100, 60, 90, 33, 20, 1000),
        BlockSizes(1000, 64, 1000, 1000, 1000, 1),
    ],
    ids=str,
)
def test_every_block_size_gives_the_same_bits(sizes, tokens):
    x = tokens().bfloat16()
    for method in METHODS:
        weight = random_weight(len(x))
        expected = scored(method, x, weight, 60)
        with block_sizes(sizes):
            for mine, theirs in zip(scored(method, x, weight, 60), expected, strict=True):
                assert torch.equal(mine, theirs)


@pytest.mark.parametrize(("method", "lam"), [("divprune", 0.5), ("mmr", 0.1)])
def test_signatures_change_no_bit(method, lam):
    x, weight = clustered_tokens(200, 64, clusters=30).bfloat16(), random_weight(200)
    expected = scored(method, x, weight, 150, lam)
    with block_sizes(BlockSizes(16, 8, 8, 33, 20, 1)):
        for mine, theirs in zip(scored(method, x, weight, 150, lam), expected, strict=True):
            assert torch.equal(mine, theirs)


def test_every_number_of_threads_gives_the_same_bits(threads):
    x, weight = gaussian_tokens(70, 2_100).bfloat16(), random_weight(70)
    results = []
    for count in (1, 2, 3):
        threads(count)
        results.append([scored(method, x, weight, 30) for method in METHODS])
    for result in results[1:]:
        for mine, theirs in zip(result, results[0], strict=True):
            assert all(torch.equal(a, b) for a, b in zip(mine, theirs, strict=True))


@pytest.mark.parametrize("scale", [1.0, 2.0**-12, 2.0**8])
@pytest.mark.parametrize("depth", [64, 1_000])
def test_pairs_of_equal_elements_are_accurate(depth, scale):
    generator = torch.Generator().manual_seed(0)
    elements = 1.0 + torch.rand(16, generator=generator)
    pairs = torch.cartesian_prod(elements, elements)[:, :, None].expand(-1, -1, depth)
    _, scores = ops.divprune.scores((scale * pairs).bfloat16(), 2)
    assert scores.abs().max() <= 1e-5


def alike(count, depth):
    return gaussian_tokens(1, depth) + 0.3 * gaussian_tokens(count, depth, seed=1)


def test_one_similarity_of_a_pair():
    """The similarity that decides the first pick, and the ones that come after, is one."""
    for a, b in alike(60, 300).bfloat16().view(30, 2, 300):
        pair = torch.stack([a, b])
        _, (first, second) = ops.divprune.scores(pair, 2)
        assert first == second
        among_three = torch.stack([-(a + b), a, b])
        _, alone = ops.mmr.scores(pair, torch.tensor([1.0, 0.0]), 2, 0.0)
        _, late = ops.mmr.scores(among_three, torch.tensor([1.0, 0.0, 0.0]), 3, 0.0)
        assert alone[1] == late[2]
