"""How far a pick or a reported score may be off, and when a verdict leaves no choice."""

import math

import pytest
import torch

from tests.oracle.by_hand import BY_RUNNING_MAXIMUM, LAM, cosine, weight_for
from tests.support.inputs import DTYPES, gaussian_tokens, oracle, random_weight
from tokenprune_kernels.verify import verify_trace


@pytest.mark.parametrize("method", BY_RUNNING_MAXIMUM)
@pytest.mark.parametrize("step", [0, 3])
def test_reported_scores_are_held_to_eps(method, step):
    x, weight = gaussian_tokens(10, 4), weight_for(method, 10)
    indices, scores = oracle(method, x, weight, 5, LAM)
    for error in (0.9e-5, -0.9e-5):
        reported = scores.float()
        reported[step] += error
        assert verify_trace(method, x, indices, weight, LAM, reported)
    for error in (1.1e-5, -1.1e-5, math.inf, -math.inf, math.nan):
        reported = scores.float()
        reported[step] += error
        verdict = verify_trace(method, x, indices, weight, LAM, reported)
        assert verdict.step == step
        assert "is reported with score" in verdict.reason
        assert verdict.tolerance == 1e-5
        assert verdict.shortfall == pytest.approx(abs(float(reported[step] - scores[step])), rel=1e-6, nan_ok=True)


def test_reported_scores_without_a_finite_value_are_held_to_it():
    x = torch.tensor([[1.0, 1.0], [torch.nan, 1.0]])
    for scores, step in [([math.inf, -math.inf], None), ([2.0, -math.inf], 0), ([math.inf, 0.0], 1)]:
        assert verify_trace("divprune", x, torch.tensor([0, 1]), scores=torch.tensor(scores)).step == step


@pytest.mark.parametrize("largest", [0.25, 1.0, 1000.0, -1000.0])
@pytest.mark.parametrize("lam", [0.0, 0.5, 1.0])
def test_tolerance_of_the_first_pick_follows_the_largest_relevance(largest, lam):
    tolerance = 2e-5 * max(1.0, abs(largest))
    for share, right in ((0.9, True), (1.1, False)):
        relevance = torch.tensor([largest, largest - share * tolerance], dtype=torch.float64)
        verdict = verify_trace("mmr", torch.eye(2), torch.tensor([1]), relevance, lam)
        assert bool(verdict) == right
        assert verdict.shortfall == pytest.approx(share * tolerance, rel=0.02)
        assert verdict.tolerance == pytest.approx(tolerance, rel=1e-3)


@pytest.mark.parametrize("largest", [0.25, 1.0, 1000.0])
@pytest.mark.parametrize("lam", [0.25, 1.0])
def test_tolerance_of_the_later_picks_follows_lam_times_the_largest_relevance(largest, lam):
    tolerance = 2e-5 * max(1.0, lam * largest)
    for share, right in ((0.9, True), (1.1, False)):
        second = largest / 2
        relevance = torch.tensor([largest, second, second - share * tolerance / lam], dtype=torch.float64)
        verdict = verify_trace("mmr", torch.eye(3), torch.tensor([0, 2]), relevance, lam)
        assert verdict.step == (None if right else 1)
        assert verdict.shortfall == pytest.approx(share * tolerance, rel=0.02)
        if not right:
            assert verdict.tolerance == pytest.approx(tolerance, rel=1e-6)


def test_tolerance_ignores_the_relevance_of_non_finite_rows():
    x = torch.tensor([[1.0, 0.0], [0.0, 1.0], [torch.nan, 0.0]])
    verdict = verify_trace("mmr", x, torch.tensor([1]), torch.tensor([1.0, 0.9, 1e6]))
    assert (verdict.step, verdict.tolerance) == (0, 2e-5)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("last", "right"), [(1.03125, True), (1.0625, False), (1.125, False)])
def test_tolerance_does_not_follow_the_dtype(dtype, last, right):
    x = torch.ones(3, 64, dtype=dtype)
    x[0] *= -1
    x[2, -1] = last
    # Row 1 is opposite to row 0, and row 2 nearly so: by more than float32 resolves and less than bfloat16 does.
    shortfall = 1 + cosine(x[0].tolist(), x[2].tolist())
    assert 1e-6 < shortfall < 2**-9
    verdict = verify_trace("divprune", x, torch.tensor([0, 2]))
    assert bool(verdict) == right == (shortfall <= 2e-5)
    assert verdict.shortfall == pytest.approx(shortfall, abs=1e-12)
    assert verdict.tolerance == 2e-5


@pytest.mark.parametrize("weight_dtype", [torch.float16, torch.bfloat16])
def test_weights_are_replayed_as_float32(weight_dtype):
    x, weight = gaussian_tokens(20, 4), random_weight(20).to(weight_dtype)
    for method in ("mmr", "idpruner"):
        indices, scores = oracle(method, x, weight, 20)
        assert verify_trace(method, x, indices, weight.float(), scores=scores.float())
        assert verify_trace(method, x, indices, weight, scores=scores.float())


@pytest.mark.parametrize(("lead", "decisive"), [(3.9e-5, False), (4.1e-5, True)])
@pytest.mark.parametrize("largest", [1.0, 64.0])
def test_decisive_means_a_lead_of_four_eps_at_every_step(lead, decisive, largest):
    eye, order = torch.eye(3), torch.tensor([0, 1, 2])
    first = torch.tensor([largest, largest * (1 - lead), 0.0], dtype=torch.float64)
    assert verify_trace("mmr", eye, order, first).decisive == decisive
    # At lam = 1/2 half of a difference in relevance counts, and half of the largest relevance.
    scale = max(1.0, largest / 2)
    later = torch.tensor([largest, largest / 2, largest / 2 - 2 * lead * scale], dtype=torch.float64)
    assert verify_trace("mmr", eye, order, later).decisive == decisive
    # Before the close step, the verdict is decisive in either case.
    assert verify_trace("mmr", eye, order[:1], later).decisive


def test_steps_without_a_choice_are_decisive():
    x = torch.tensor([[1.0, 0.0], [0.0, 1.0], [torch.nan, 0.0], [torch.nan, 0.0]])
    assert verify_trace("mmr", x, torch.tensor([0, 1, 2, 3]), torch.tensor([1.0, 0.0, 0.0, 0.0])).decisive
    assert verify_trace("divprune", x, torch.empty(0, dtype=torch.int64)).decisive


def test_a_batch_is_decisive_when_every_item_is():
    relevance = torch.tensor([[3.0, 2.0, 1.0], [3.0, 1.0, 2.0], [3.0, 1.0, 1.0]])
    x, picks = torch.eye(3).expand(3, 3, 3), torch.tensor([[0, 1, 2], [0, 2, 1], [0, 1, 2]])
    assert verify_trace("mmr", x[:2], picks[:2], relevance[:2]).decisive
    assert not verify_trace("mmr", x, picks, relevance).decisive
