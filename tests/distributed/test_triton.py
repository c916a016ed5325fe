"""Selections from rows of several processes on the Triton backend: bit for bit those of one process."""

import pytest
import torch

from tests.conftest import INTERPRETED
from tests.distributed.one_process import SELECTORS, check, even_cuts, expected_of, select
from tests.distributed.ranks import Ranks, joined
from tests.support.gpu import ON_A_GPU
from tests.support.inputs import clustered_tokens, exact_tokens, gaussian_tokens, random_weight

pytest.importorskip("triton", reason="the Triton backend needs triton")

IN_THE_INTERPRETER = [
    pytest.mark.interpret,
    pytest.mark.skipif(not INTERPRETED, reason="needs TRITON_INTERPRET=1"),
]


@pytest.fixture(
    scope="module",
    params=[
        pytest.param("cpu", id="triton", marks=IN_THE_INTERPRETER),
        pytest.param("cuda", id="gpu", marks=ON_A_GPU),
    ],
)
def place(request):
    return "triton", request.param


@pytest.fixture(scope="module", params=[1, 2, 3])
def ranks(request):
    yield from joined(request.param)


@pytest.mark.parametrize(("dtype", "depth"), [(torch.float32, 24), (torch.bfloat16, 70), (torch.float16, 33)], ids=str)
@pytest.mark.parametrize("method", SELECTORS)
def test_rows_in_clusters(ranks, place, method, dtype, depth):
    x = clustered_tokens(90, depth, clusters=12, dtype=dtype)
    check(ranks, method, x, random_weight(90), 30, 0.5, even_cuts(ranks, 90), place=place)


@pytest.mark.parametrize("method", SELECTORS)
def test_ties_go_to_the_lowest_index_of_all_ranks(ranks, place, method):
    x = exact_tokens(60, 16, non_zeros=4)
    check(ranks, method, x, random_weight(60).mul(4).round(), 60, 0.5, even_cuts(ranks, 60), place=place)


@pytest.mark.parametrize("method", SELECTORS)
def test_rows_that_are_not_finite_and_shards_of_any_size(ranks, place, method):
    x, weight = gaussian_tokens(40, 8), random_weight(40)
    x[::5] = torch.nan
    x[1], x[2] = torch.inf, 0.0
    weight[7] = -torch.inf
    check(ranks, method, x, weight, 40, 0.3, [] if ranks is None else [1] * (ranks.size - 1), place=place)
    if ranks is not None:
        check(ranks, method, x, weight, 9, 0.3, [40] * (ranks.size - 1), place=place)


@pytest.mark.parametrize("method", SELECTORS)
def test_a_selection_goes_on_from_its_first_picks(ranks, place, method):
    x, weight = clustered_tokens(60, 16, clusters=9), random_weight(60)
    whole = expected_of(method, x, weight, 20, 0.5, None, *place)
    rest = tuple(made[7:] for made in whole)
    check(ranks, method, x, weight, 13, 0.5, even_cuts(ranks, 60), whole[0][:7], rest, place)


def test_another_backend_on_one_rank_is_an_error_on_all(ranks, place):
    if ranks is None or place[1] != "cpu":
        pytest.skip("needs two ranks with rows on the CPU")
    x, others = gaussian_tokens(9, 8), ranks.size - 1
    given = (["mmr"], [x], [random_weight(9)], [3], [0.5], [None])
    backends = ["native"] + ["triton"] * others
    for error in ranks.call(select, *(each * ranks.size for each in given), backends):
        with pytest.raises(
            ValueError, match="the same backend on all ranks, got native on rank 0 and triton on rank 1"
        ):
            raise error


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
@pytest.mark.parametrize("method", SELECTORS)
def test_nccl(method):
    ranks = Ranks(2, "nccl")
    try:
        x = clustered_tokens(900, 256, clusters=50, dtype=torch.bfloat16)
        check(ranks, method, x, random_weight(900), 90, 0.5, [300], place=("triton", "cuda"))
    finally:
        ranks.end()
