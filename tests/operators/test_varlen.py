"""Packed ragged batches."""

import pytest
import torch

import python_ref
import tokenprune_kernels
from tests.support.inputs import (
    DTYPES,
    METHODS,
    exact_tokens_for,
    exact_weight,
    gaussian_tokens,
    ops,
    random_weight,
)
from tests.support.slow import not_interpreted_if, slow_if_interpreted
from tests.support.varlen import HOSTILE, prefix_sums, select, varlen_arguments
from tokenprune_kernels.verify import verify_trace_varlen

pytestmark = pytest.mark.kernel


LENGTHS = (5, 0, 1, 40, 1, 0, 17, 300, 2)
KEPT = (2, 0, 1, 10, 0, 0, 17, 30, 1)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("spare", [0, 1, 50])
@slow_if_interpreted(lambda method, dtype, spare: method in ("mmr", "dpp") or dtype != torch.bfloat16 or spare != 1)
@not_interpreted_if(lambda method, spare: method != "divprune" and spare != 1)
@not_interpreted_if(
    lambda method, dtype, spare: dtype != torch.bfloat16 and (spare != 1 or method in ("mmr", "idpruner"))
)
def test_each_segment_is_selected_as_if_alone(backend, method, dtype, spare):
    rows, kept = sum(LENGTHS), sum(KEPT)
    x, weight = gaussian_tokens(rows + spare, 33, dtype=dtype), random_weight(rows + spare)
    cu_seqlens, cu_k = prefix_sums(*LENGTHS), prefix_sums(*KEPT)
    indices, scores = select(method, x, weight, cu_seqlens, cu_k, kept + spare, max(LENGTHS) + spare)
    assert indices.shape == scores.shape == (kept + spare,)
    for start, length, slot, k in zip(cu_seqlens.tolist(), LENGTHS, cu_k.tolist(), KEPT, strict=False):
        segment = slice(start, start + length)
        alone = (x[segment], k) if method == "divprune" else (x[segment], weight[segment], k)
        alone_indices, alone_scores = getattr(ops, method).scores(*alone)
        assert torch.equal(indices[slot : slot + k] - start, alone_indices)
        assert torch.equal(scores[slot : slot + k], alone_scores)
    assert (indices[kept:] == -1).all()
    assert (scores[kept:] == -torch.inf).all()
    verdict = verify_trace_varlen(
        method,
        x,
        indices,
        cu_seqlens,
        cu_k,
        None if method == "divprune" else weight,
        scores=scores,
        total_k=kept + spare,
    )
    assert verdict, verdict


@pytest.mark.parametrize("method", METHODS)
@slow_if_interpreted(lambda method: method != "mmr")
def test_exact_arithmetic_inputs_match_the_oracle(backend, method):
    x = exact_tokens_for(method, sum(LENGTHS), 64, non_zeros=16, dtype=torch.bfloat16)
    weight = exact_weight(method, sum(LENGTHS))
    if method == "idpruner":  # every segment spans the range that makes its relevance exact
        starts = prefix_sums(*LENGTHS).tolist()
        for start, length in zip(starts, LENGTHS, strict=False):
            weight[start : start + min(length, 2)] = torch.tensor([0.0, 2.0**42])[: min(length, 2)]
    given = varlen_arguments(method, x, weight, prefix_sums(*LENGTHS), prefix_sums(*LENGTHS), sum(LENGTHS), 300)
    indices = getattr(ops, f"{method}_varlen")(*given)
    assert torch.equal(indices, getattr(python_ref, f"{method}_varlen")(*given)[0])


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("rows", "lengths", "kept", "total_k"),
    [(0, (), (), 0), (4, (), (), 3), (0, (0, 0), (0, 0), 2), (5, (5,), (0,), 0), (5, (2,), (0,), 4)],
)
def test_nothing_to_select(backend, method, rows, lengths, kept, total_k):
    indices, scores = select(
        method, torch.ones(rows, 3), torch.ones(rows), prefix_sums(*lengths), prefix_sums(*kept), total_k, 5
    )
    assert indices.tolist() == [-1] * total_k
    assert scores.tolist() == [-torch.inf] * total_k


@pytest.mark.parametrize("method", METHODS)
@slow_if_interpreted(lambda method: method == "dpp")
def test_non_finite_rows_stay_inside_their_segment(backend, method):
    x, weight = gaussian_tokens(20, 6), random_weight(20)
    x[3], x[12] = torch.nan, torch.inf
    indices, _ = select(method, x, weight, prefix_sums(10, 10), prefix_sums(10, 10), 20, 10)
    assert indices[9] == 3
    assert indices[19] == 12


def test_strided_inputs(backend):
    x = gaussian_tokens(20, 6)
    expected = ops.divprune_varlen(x, prefix_sums(10, 10), prefix_sums(4, 5), 9, 10)
    sums = torch.stack([prefix_sums(10, 10), prefix_sums(4, 5)], dim=1)
    assert torch.equal(ops.divprune_varlen(x.mT.contiguous().mT, sums[:, 0], sums[:, 1], 9, 10), expected)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("starts", "kept", "message"), HOSTILE)
def test_wrong_contents_are_an_error_on_the_cpu(method, starts, kept, message):
    x, weight = gaussian_tokens(12, 3), random_weight(12)
    cu_seqlens, cu_k = torch.tensor(starts, dtype=torch.int32), torch.tensor(kept, dtype=torch.int32)
    given = varlen_arguments(method, x, weight, cu_seqlens, cu_k, 8, 6)
    without_lam = given if method in ("divprune", "dpp") else given[:-1]
    for call, error in (
        (lambda: getattr(torch.ops.tokenprune, f"{method}_varlen")(*given), ValueError),
        (lambda: getattr(torch.ops.tokenprune_native, f"{method}_varlen")(*given), RuntimeError),
        (lambda: getattr(tokenprune_kernels, f"{method}_varlen")(*without_lam), ValueError),
    ):
        with pytest.raises(error, match=f"^{method}_varlen: expected {message}"):
            call()


@pytest.mark.parametrize(
    ("starts", "kept", "message"),
    [case for case in HOSTILE if "max_seqlen" not in case[2] and "total_k" not in case[2]],
)
def test_wrong_contents_are_an_error_when_capacities_are_read_from_them(starts, kept, message):
    cu_seqlens, cu_k = torch.tensor(starts, dtype=torch.int32), torch.tensor(kept, dtype=torch.int32)
    with pytest.raises(ValueError, match=f"^divprune_varlen: expected {message}"):
        tokenprune_kernels.divprune_varlen(gaussian_tokens(12, 3), cu_seqlens, cu_k)
