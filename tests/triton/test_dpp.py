"""The Triton form of the DPP, where it differs from the others: picks by all programs, scaling, ragged batches."""

import pytest
import torch

import python_ref
from tests.support.inputs import gaussian_tokens, judged, ops, random_weight
from tests.support.slow import slow_if_interpreted

pytestmark = [pytest.mark.kernel]


@pytest.mark.parametrize("count", [15, 16, 17, 33])
@slow_if_interpreted(lambda count: count not in (15, 17))
def test_blocks_of_rows_with_and_without_a_remainder(backend, count):
    judged("dpp", gaussian_tokens(count, 12), random_weight(count), 6)


def test_ragged_batches_with_empty_segments_and_spare_slots(backend):
    x, relevance = gaussian_tokens(44, 8), random_weight(44)
    cu_seqlens = torch.tensor([0, 18, 18, 27, 44], dtype=torch.int32)
    cu_k = torch.tensor([0, 5, 5, 5, 12], dtype=torch.int32)
    indices, scores = ops.dpp_varlen.scores(x, relevance, cu_seqlens, cu_k, 14, 20)
    for begin, end, slot, slot_end in ((0, 18, 0, 5), (27, 44, 5, 12)):
        alone = ops.dpp.scores(x[begin:end], relevance[begin:end], slot_end - slot)
        assert torch.equal(indices[slot:slot_end], alone[0] + begin)
        assert torch.equal(scores[slot:slot_end], alone[1])
    assert indices[12:].tolist() == [-1, -1]


def test_rows_that_the_picks_explain_have_no_gain(backend):
    directions = torch.cat([torch.eye(6), -torch.eye(6), torch.eye(6)])
    relevance = (torch.arange(18) % 5) / 4.0
    indices, scores = ops.dpp.scores(directions, relevance, 18)
    expected = python_ref.dpp(directions, relevance, 18)
    assert torch.equal(indices, expected[0])
    assert torch.equal(scores, expected[1].float())


@pytest.mark.parametrize("scale", [1e38, 1e18, 1e-17, 1e-30, 0.0])
@slow_if_interpreted(lambda scale: scale not in (1e38, 1e-30))
def test_relevances_of_any_size(backend, scale):
    judged("dpp", gaussian_tokens(20, 8), scale * random_weight(20), 8)


def test_norms_below_their_floor(backend):
    judged("dpp", torch.cat([1e-13 * gaussian_tokens(9, 8), gaussian_tokens(9, 8)]), random_weight(18), 10)


def test_a_negative_relevance_counts_as_zero_without_an_error(backend):
    if backend == "native":
        pytest.skip("an error on the native backend: tests/operators/test_dpp.py")
    x, relevance = gaussian_tokens(12, 8), random_weight(12)
    relevance[3] = 0.0
    expected = ops.dpp.scores(x, relevance, 12)
    relevance[3] = -0.5
    for mine, theirs in zip(ops.dpp.scores(x, relevance, 12), expected, strict=True):
        assert torch.equal(mine, theirs)


@pytest.mark.parametrize("first", [0.0, 1e-20])
def test_a_row_without_a_kernel_entry_does_not_scale_the_others(backend, first):
    x = torch.tensor([[first, 0.0], [1.0, 0.0], [0.6, 0.8]])
    judged("dpp", x, torch.tensor([1e25, 1.0, 1.5]), 3)


def test_a_batch_in_slices_is_the_batch_at_once(backend):
    if backend == "native":
        pytest.skip("the native backend has no slices")
    from tokenprune_kernels.backends.triton import operators, runtime

    x, relevance = gaussian_tokens(3, 9, 8), random_weight(3, 9)
    expected = ops.dpp.scores(x, relevance, 4)
    with runtime.settings(workspace_limit=1):
        assert operators.plan("dpp", x.shape, x.dtype).slice_items == 1
        for mine, theirs in zip(ops.dpp.scores(x, relevance, 4), expected, strict=True):
            assert torch.equal(mine, theirs)
