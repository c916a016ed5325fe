"""What the AMX path has to show. `test_amx.py` runs this file in a process that has AMX, or an emulator of it."""

import ctypes

import pytest
import torch

import tokenprune_kernels
from tests.support.block_sizes import PLAIN, block_sizes, scored, with_broken_rows
from tests.support.inputs import (
    ALL_METHODS,
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
DTYPES = pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)


def test_the_path_is_taken():
    assert tokenprune_kernels.build_info()["backends"]["native"]["isa"] == "amx"
    emulator = ctypes.CDLL(None)
    if hasattr(emulator, "amx_emulator_products"):
        before = emulator.amx_emulator_products()
        ops.divprune(gaussian_tokens(20, 64), 2)
        assert emulator.amx_emulator_products() > before


@DTYPES
@pytest.mark.parametrize("method", ALL_METHODS)
# Depths with and without remainders of an instruction and of a chunk; rows with and without those of a tile.
@pytest.mark.parametrize(
    ("count", "depth"), [(2, 5), (17, 1), (33, 31), (40, 33), (16, 512), (32, 513), (65, 1000), (90, 64)]
)
def test_judged(method, count, depth, dtype):
    judged(method, gaussian_tokens(count, depth).to(dtype), random_weight(count), count)


@DTYPES
@pytest.mark.parametrize("method", ALL_METHODS)
def test_ties_go_to_the_lowest_index(method, dtype):
    x, weight = exact_tokens(70, 32, non_zeros=16).to(dtype), exact_weight(method, 70)
    assert torch.equal(getattr(ops, method)(*arguments(method, x, weight, 70)), oracle(method, x, weight, 70)[0])


@DTYPES
@pytest.mark.parametrize("tokens", [lambda: clustered_tokens(90, 40, clusters=9), with_broken_rows])
@pytest.mark.parametrize(
    "sizes",
    [
        PLAIN,
        (7, 2, 3, 16, 33, 1),
        (33, 20, 32, 33, 20, 3),
        (100, 60, 90, 33, 20, 1000),
        (1000, 64, 1000, 1000, 1000, 1),
    ],
    ids=str,
)
def test_every_block_size_gives_the_same_bits(sizes, tokens, dtype):
    x = tokens().to(dtype)
    for method in ALL_METHODS:
        weight = random_weight(len(x))
        expected = scored(method, x, weight, 60)
        with block_sizes(*sizes):
            for mine, theirs in zip(scored(method, x, weight, 60), expected, strict=True):
                assert torch.equal(mine, theirs)


@DTYPES
@pytest.mark.parametrize(("method", "lam"), [("divprune", 0.5), ("mmr", 0.1)])
def test_signatures_change_no_bit(method, lam, dtype):
    x, weight = clustered_tokens(200, 64, clusters=30).to(dtype), random_weight(200)
    expected = scored(method, x, weight, 150, lam)
    with block_sizes(16, 8, 8, 33, 20, 1):
        for mine, theirs in zip(scored(method, x, weight, 150, lam), expected, strict=True):
            assert torch.equal(mine, theirs)


@DTYPES
def test_every_number_of_threads_gives_the_same_bits(dtype, threads):
    x, weight = gaussian_tokens(70, 2_100).to(dtype), random_weight(70)
    results = []
    for count in (1, 2, 3):
        threads(count)
        results.append([scored(method, x, weight, 30) for method in ALL_METHODS])
    for result in results[1:]:
        for mine, theirs in zip(result, results[0], strict=True):
            assert all(torch.equal(a, b) for a, b in zip(mine, theirs, strict=True))


def equal_elements():
    """Rows of one direction, with elements that bfloat16 parts represent as badly as they can."""
    worst = torch.tensor([1 + 2**-8 + 2**-16, 1 + 2**-8 - 2**-16, 1 + 2**-8 - 2**-17 + 2**-23, 1.0, 1 + 2**-9, 1.7])
    return worst.repeat(5)[:, None].expand(-1, 64).clone()


def next_to_overflow():
    """Rows whose leading parts are larger than they are."""
    a = torch.full((57,), (1 + (7 + 0.625) / 128) * 2.0**61)
    b = a.clone()
    b[0] *= 1 - 0.1 * 57**0.5 / 4
    largest = torch.nn.functional.normalize(gaussian_tokens(20, 57)) * (torch.finfo(torch.float32).max ** 0.5 * 0.99999)
    return torch.cat([torch.stack([a, b, -b]), largest])


def few_elements():
    x = torch.zeros(40, 100)
    generator = torch.Generator().manual_seed(0)
    for row in x:
        row[torch.randperm(100, generator=generator)[:2]] = torch.rand(2, generator=generator) + 0.5
    return x


@pytest.mark.parametrize(
    "tokens",
    [
        equal_elements,
        few_elements,
        lambda: gaussian_tokens(40, 8),
        lambda: torch.cat([equal_elements(), gaussian_tokens(30, 64)]),
        lambda: 1e-25 * gaussian_tokens(40, 64),
        lambda: 1e17 * gaussian_tokens(40, 64),
        lambda: 2.0**-12 * equal_elements(),
        lambda: 2.0**40 * equal_elements(),
        next_to_overflow,
    ],
)
def test_float32_similarities_are_accurate_whatever_the_elements(tokens):
    x = tokens()
    indices, scores = ops.divprune.scores(x, len(x))
    norm = x.double().norm(dim=1).clamp_min(1e-12)
    similarity = x.double() @ x.double().mT / (norm[:, None] * norm)
    nearest = torch.stack([similarity[i, indices[:step]].max() for step, i in enumerate(indices.tolist()) if step > 0])
    assert (1 - nearest - scores[1:].double()).abs().max() <= 1e-5
    judged("divprune", x, None, len(x))
    judged("mmr", x, random_weight(len(x)), len(x))


@DTYPES
@pytest.mark.parametrize("scale", [1.0, 2.0**-12, 2.0**8])
@pytest.mark.parametrize("depth", [64, 1_000])
def test_pairs_of_equal_elements_are_accurate(depth, scale, dtype):
    generator = torch.Generator().manual_seed(0)
    elements = 1.0 + torch.rand(16, generator=generator)
    worst = [1 + 2**-8 - 2**-17, 1 + 2**-8 + 2**-16, 1 + 2**-9 + 2**-17, 1 + 2**-8, 1.0, float.fromhex("0x1.0ec20ap+0")]
    elements[: len(worst)] = torch.tensor(worst)
    pairs = torch.cartesian_prod(elements, elements)[:, :, None].expand(-1, -1, depth)
    _, scores = ops.divprune.scores((scale * pairs).to(dtype), 2)
    assert scores.abs().max() <= 1e-5


def alike(count, depth):
    return gaussian_tokens(1, depth) + 0.3 * gaussian_tokens(count, depth, seed=1)


@DTYPES
def test_one_similarity_of_a_pair(dtype):
    """The similarity that decides the first pick, and the ones that come after, is one."""
    for a, b in alike(60, 300).to(dtype).view(30, 2, 300):
        pair = torch.stack([a, b])
        _, (first, second) = ops.divprune.scores(pair, 2)
        assert first == second
        among_three = torch.stack([-(a + b), a, b])
        _, alone = ops.mmr.scores(pair, torch.tensor([1.0, 0.0]), 2, 0.0)
        _, late = ops.mmr.scores(among_three, torch.tensor([1.0, 0.0, 0.0]), 3, 0.0)
        assert alone[1] == late[2]
