"""The varlen forms of the oracle."""

import itertools
import math

import pytest
import torch

import python_ref
from tests.support.inputs import METHODS, gaussian_tokens, oracle
from tests.support.varlen import varlen_arguments


def packed(lengths, kept, spare_rows=0):
    cu_seqlens = torch.tensor([0, *itertools.accumulate(lengths)], dtype=torch.int32)
    cu_k = torch.tensor([0, *itertools.accumulate(kept)], dtype=torch.int32)
    rows = sum(lengths)
    x = torch.cat([gaussian_tokens(rows, 5), torch.full((spare_rows, 5), math.nan)])
    weight = torch.cat([gaussian_tokens(rows, seed=1), torch.full((spare_rows,), math.nan)])
    return x, weight, cu_seqlens, cu_k


@pytest.mark.parametrize(
    ("lengths", "kept"),
    [
        ([4, 7, 3], [2, 7, 1]),
        ([0, 1, 5, 1, 0, 2], [0, 1, 3, 0, 0, 2]),
        ([6], [0]),
        ([0, 0], [0, 0]),
        ([], []),
    ],
)
@pytest.mark.parametrize(("spare_rows", "spare_slots", "spare_length"), [(0, 0, 0), (3, 4, 2)])
@pytest.mark.parametrize("method", METHODS)
def test_a_varlen_form_is_a_loop_over_segments(method, lengths, kept, spare_rows, spare_slots, spare_length):
    x, weight, cu_seqlens, cu_k = packed(lengths, kept, spare_rows)
    weight = weight.abs() if method == "dpp" else weight
    budget = (cu_seqlens, cu_k, sum(kept) + spare_slots, max(lengths, default=0) + spare_length)
    indices, scores = getattr(python_ref, f"{method}_varlen")(*varlen_arguments(method, x, weight, *budget, 0.3))
    picks, won, start = [], [], 0
    for length, k in zip(lengths, kept, strict=True):
        rows = slice(start, start + length)
        alone, alone_scores = oracle(method, x[rows], weight[rows], k, 0.3)
        picks += [start + i for i in alone.tolist()]
        won += alone_scores.tolist()
        start += length
    assert indices.dtype == torch.int64
    assert indices.tolist() == picks + [-1] * spare_slots
    assert scores.tolist() == won + [-math.inf] * spare_slots


def test_importance_is_scaled_within_each_segment():
    x, cu_seqlens = torch.eye(4), torch.tensor([0, 2, 4], dtype=torch.int32)
    importance = torch.tensor([0.0, 1.0, 100.0, 300.0])
    indices, scores = python_ref.idpruner_varlen(x, importance, cu_seqlens, cu_seqlens, 4, 2, 1.0)
    assert indices.tolist() == [1, 0, 3, 2]
    in_the_first = torch.tensor(1.0) / (torch.tensor(1.0) + 1e-6)
    assert scores.tolist() == [in_the_first.item(), 0.0, 1.0, 0.0]


@pytest.mark.parametrize(
    ("cu_seqlens", "cu_k", "total_k", "max_seqlen", "message"),
    [
        ([1, 3, 6], [0, 1, 2], 2, 6, r"expected cu_seqlens to rise from 0 to at most 6, got \[1, 3, 6\]"),
        ([0, 4, 3], [0, 1, 2], 2, 6, r"expected cu_seqlens to rise from 0 to at most 6, got \[0, 4, 3\]"),
        ([0, 3, 7], [0, 1, 2], 2, 6, r"expected cu_seqlens to rise from 0 to at most 6, got \[0, 3, 7\]"),
        ([0, 3, 6], [1, 1, 2], 2, 6, r"expected cu_k to rise from 0 to at most 2, got \[1, 1, 2\]"),
        ([0, 3, 6], [0, 2, 1], 2, 6, r"expected cu_k to rise from 0 to at most 2, got \[0, 2, 1\]"),
        ([0, 3, 6], [0, 1, 3], 2, 6, r"expected cu_k to rise from 0 to at most 2, got \[0, 1, 3\]"),
        ([0, 2, 6], [0, 1, 2], 2, 3, "expected segments of at most max_seqlen = 3 rows, got 4"),
        ([0, 1, 6], [0, 2, 4], 4, 6, r"expected k to be in \[0, N\] with N = 1, got 2"),
    ],
)
def test_prefix_sums_that_break_the_contract_are_refused(cu_seqlens, cu_k, total_k, max_seqlen, message):
    sums = [torch.tensor(values, dtype=torch.int32) for values in (cu_seqlens, cu_k)]
    with pytest.raises(ValueError, match=message):
        python_ref.divprune_varlen(torch.eye(6), *sums, total_k, max_seqlen)
