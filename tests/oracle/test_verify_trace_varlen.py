"""The judge of selections from packed ragged batches."""

import pytest

import python_ref
from tests.support.inputs import (
    METHODS,
    gaussian_tokens,
    random_weight,
)
from tests.support.varlen import prefix_sums, varlen_arguments
from tokenprune_kernels.verify import verify_trace_varlen

LAM = 0.3
LENGTHS, KEPT, SPARE = (5, 0, 1, 7), (3, 0, 1, 4), 3


@pytest.fixture(params=METHODS)
def packed(request):
    """Arguments of verify_trace_varlen with a right answer: seven spare rows, three spare slots."""
    x = gaussian_tokens(sum(LENGTHS) + 7, 6)
    weight = None if request.param == "divprune" else random_weight(sum(LENGTHS) + 7)
    budget = (prefix_sums(*LENGTHS), prefix_sums(*KEPT), sum(KEPT) + SPARE, max(LENGTHS))
    given = varlen_arguments(request.param, x, weight, *budget, LAM)
    indices, scores = getattr(python_ref, f"{request.param}_varlen")(*given)
    return {
        "method": request.param,
        "x": x,
        "indices": indices,
        "cu_seqlens": prefix_sums(*LENGTHS),
        "cu_k": prefix_sums(*KEPT),
        "weight": weight,
        "lam": LAM,
        "scores": scores.float(),
        "total_k": sum(KEPT) + SPARE,
    }


def test_the_varlen_oracle_is_right(packed):
    verdict = verify_trace_varlen(**packed)
    assert verdict
    assert verdict.shortfall <= 1e-12
    exact = dict(packed, indices=packed["indices"][: sum(KEPT)], scores=packed["scores"][: sum(KEPT)], total_k=None)
    assert verify_trace_varlen(**exact)


@pytest.mark.parametrize(
    ("slot", "value", "item", "step", "reason"),
    [
        (1, 5, (0,), 1, "index 5 is not in [0, 5)"),
        (3, 4, (2,), 0, "index 4 is not in [5, 6)"),
        (6, 5, (3,), 2, "index 5 is not in [6, 13)"),
        (7, 13, (3,), 3, "index 13 is not in [6, 13)"),
        (5, -1, (3,), 1, "index -1 is not in [6, 13)"),
    ],
)
def test_indices_outside_their_segment(packed, slot, value, item, step, reason):
    packed["indices"][slot] = value
    verdict = verify_trace_varlen(**packed)
    assert (verdict.item, verdict.step, verdict.reason) == (item, step, reason)


def test_wrong_picks_of_a_segment(packed):
    indices = packed["indices"]
    indices[[5, 6]] = indices[[6, 5]]
    verdict = verify_trace_varlen(**packed)
    assert (verdict.item, verdict.step) == ((3,), 1)
    assert verdict.reason == f"row {indices[5]} is picked where row {indices[6]} is better"


def test_wrong_scores_of_a_segment(packed):
    packed["scores"][4] += 2e-5
    verdict = verify_trace_varlen(**packed)
    assert (verdict.item, verdict.step) == ((3,), 0)
    assert "is reported with score" in verdict.reason


@pytest.mark.parametrize("slot", [8, 10])
def test_unused_slots_hold_minus_one_and_minus_infinity(packed, slot):
    scores = packed["scores"].clone()
    scores[slot] = 0.0
    verdict = verify_trace_varlen(**dict(packed, scores=scores))
    assert (verdict.step, verdict.reason) == (slot, f"slot {slot} past cu_k[S] = 8 holds score 0.0, not -inf")
    packed["indices"][slot] = 0
    verdict = verify_trace_varlen(**packed)
    assert (verdict.step, verdict.reason) == (slot, f"slot {slot} past cu_k[S] = 8 holds index 0, not -1")


@pytest.mark.parametrize(("slots", "total_k"), [(10, 11), (8, 11), (7, None), (11, None), (11, 12), (0, 11)])
def test_the_number_of_slots_is_checked(packed, slots, total_k):
    truncated = dict(packed, indices=packed["indices"][:slots], scores=None, total_k=total_k)
    verdict = verify_trace_varlen(**truncated)
    assert (verdict.step, verdict.reason) == (0, f"expected indices of shape [{total_k or 8}], got [{slots}]")
