"""Initial rows in the oracle and the judge, held to scores in Python floats."""

import pytest
import torch

from tests.oracle.by_hand import LAM, relevance_for, scores_at, weight_for
from tests.support.inputs import METHODS, WITH_INITIAL, exact_tokens, gaussian_tokens, oracle, random_weight
from tokenprune_kernels.verify import verify_trace

methods = pytest.mark.parametrize("method", WITH_INITIAL)
INITIAL = torch.tensor([7, 2, 11])


@methods
def test_the_oracle_picks_the_best_row_beside_the_initial_ones(method):
    x, weight = gaussian_tokens(20, 5), weight_for(method, 20)
    indices, scores = oracle(method, x, weight, 17, LAM, INITIAL)
    selected, relevance = INITIAL.tolist(), relevance_for(method, weight)
    for pick, score in zip(indices.tolist(), scores.tolist(), strict=True):
        left = scores_at(x.double().tolist(), selected, relevance)
        assert pick == max(left, key=left.get)
        assert score == pytest.approx(left[pick], abs=1e-12)
        selected.append(pick)


@methods
def test_the_oracle_goes_on_from_every_prefix(method):
    x, weight = exact_tokens(30, 8, non_zeros=4), weight_for(method, 30)
    x[[4, 17]] = torch.nan
    indices, scores = oracle(method, x, weight, 30)
    for length in range(31):
        more = oracle(method, x, weight, 30 - length, initial=indices[:length])
        assert torch.equal(more[0], indices[length:])
        assert torch.equal(more[1], scores[length:])


@methods
@pytest.mark.parametrize("initial", [[0, 0], [0, 20], [-1]])
def test_wrong_initial_rows_are_refused(method, initial):
    x, weight = gaussian_tokens(20, 5), weight_for(method, 20)
    with pytest.raises(ValueError, match="initial"):
        oracle(method, x, weight, 3, initial=torch.tensor(initial))
    with pytest.raises(ValueError, match="initial"):
        verify_trace(method, x, torch.tensor([5]), weight, initial=torch.tensor(initial))


@methods
def test_k_counts_the_rows_that_are_not_initial(method):
    with pytest.raises(ValueError, match="got 18"):
        oracle(method, gaussian_tokens(20, 5), weight_for(method, 20), 18, initial=INITIAL)


@methods
def test_the_judge_accepts_the_oracle_and_rejects_other_traces(method):
    x, weight = gaussian_tokens(2, 20, 5), weight_for(method, 2, 20)
    initial = torch.stack([INITIAL, INITIAL + 3])
    indices, scores = oracle(method, x, weight, 9, LAM, initial)
    verdict = verify_trace(method, x, indices, weight, LAM, scores.float(), 9, initial)
    assert verdict
    assert verdict.shortfall <= 1e-12
    without = oracle(method, x, weight, 9, LAM)[0]
    assert verify_trace(method, x, without, weight, LAM)
    assert not verify_trace(method, x, without, weight, LAM, initial=initial)
    assert not verify_trace(method, x, indices, weight, LAM)
    assert not verify_trace(method, x, indices.flip(-1), weight, LAM, initial=initial)
    assert not verify_trace(method, x, indices, weight, LAM, scores.float() + 1e-3, initial=initial)
    repeated = indices.clone()
    repeated[1, 4] = initial[1, 2]
    verdict = verify_trace(method, x, repeated, weight, LAM, initial=initial)
    assert (verdict.item, verdict.step, verdict.reason) == ((1,), 4, f"index {int(initial[1, 2])} is repeated")


def test_initial_rows_that_are_not_finite_leave_the_first_pick_to_its_own_rule():
    x, relevance = gaussian_tokens(20, 5), 100 * random_weight(20)
    x[INITIAL] = torch.nan
    indices, scores = oracle("mmr", x, relevance, 17, LAM, INITIAL)
    assert torch.equal(indices, oracle("mmr", x, relevance, 17, LAM)[0])
    assert float(scores[0]) == pytest.approx(float(relevance[indices[0]]))
    assert verify_trace("mmr", x, indices, relevance, LAM, scores.float(), initial=INITIAL)


def test_the_dpp_has_none():
    assert set(METHODS) - set(WITH_INITIAL) == {"dpp"}
    with pytest.raises(ValueError, match="initial to be None with method 'dpp'"):
        verify_trace("dpp", gaussian_tokens(5, 3), torch.tensor([0]), random_weight(5), initial=torch.tensor([1]))


@pytest.mark.parametrize("initial", [INITIAL.int(), INITIAL[None], torch.tensor(3)])
def test_the_judge_wants_int64_of_the_right_shape(initial):
    with pytest.raises(ValueError, match="expected initial to be int64"):
        verify_trace("divprune", gaussian_tokens(20, 5), torch.tensor([0]), initial=initial)
