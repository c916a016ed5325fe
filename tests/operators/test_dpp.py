"""The DPP: its oracle against determinants, its replay against wrong traces, and what only it has to get right."""

import itertools
import math

import pytest
import torch

import python_ref
from python_ref.similarity import finite_rows
from tests.support.inputs import (
    DTYPES,
    clustered_tokens,
    exact_tokens,
    exact_weight,
    gaussian_tokens,
    generator,
    judged,
    ops,
    random_weight,
)
from tests.support.slow import slow_if
from tokenprune_kernels.verify import verify_trace

THRESHOLD = 2e-5


def kernel(x, relevance):
    x, relevance = x.double(), relevance.double()
    unit = x / x.norm(dim=-1, keepdim=True)
    return relevance[:, None] * (unit @ unit.mT) * relevance


def gains_at(x, relevance, picks):
    """By how much each row multiplies the determinant of the picks' kernel."""
    whole = kernel(x, relevance)
    before = torch.linalg.det(whole[picks][:, picks])
    return {
        i: float(torch.linalg.det(whole[[*picks, i]][:, [*picks, i]]) / before) for i in set(range(len(x))) - set(picks)
    }


def with_gains(*gains):
    """Rows that are orthogonal, so that each keeps the gain it has."""
    return torch.eye(len(gains)), torch.tensor(gains, dtype=torch.float64).sqrt()


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_oracle_is_greedy_in_determinants(dtype, seed):
    x, relevance = gaussian_tokens(9, 6, dtype=dtype, seed=seed), random_weight(9, seed=seed) + 0.1
    picks, won = [], []
    for _ in range(6):
        gains = gains_at(x, relevance, picks)
        picks.append(max(gains, key=gains.get))
        won.append(gains[picks[-1]])
    indices, scores = python_ref.dpp(x, relevance, 6)
    assert indices.tolist() == picks
    torch.testing.assert_close(scores, torch.tensor(won, dtype=torch.float64), rtol=1e-9, atol=1e-12)
    # Six dimensions are used up.
    rest, zeros = (tensor[6:] for tensor in python_ref.dpp(x, relevance, 9))
    assert rest.tolist() == sorted(set(range(9)) - set(picks))
    assert zeros.tolist() == [0.0] * 3


def test_the_oracle_refuses_what_the_operator_refuses():
    with pytest.raises(ValueError, match="expected relevance to be at least 0, got -2"):
        python_ref.dpp(torch.eye(2), torch.tensor([1.0, -2.0]), 1)
    with pytest.raises(ValueError, match="expected k to be in"):
        python_ref.dpp(torch.eye(2), torch.ones(2), 3)


def test_a_norm_below_its_floor_lowers_a_gain():
    x = torch.tensor([[1e-12, 0.0], [0.0, 5e-13], [0.0, 0.0]])
    for indices, scores in (python_ref.dpp(x, torch.ones(3), 3), ops.dpp.scores(x, torch.ones(3), 3)):
        assert indices.tolist() == [0, 1, 2]
        assert scores.tolist() == pytest.approx([1.0, 0.25, 0.0])


def test_every_order_of_five_rows_is_judged_as_by_hand():
    x, relevance = gaussian_tokens(5, 4), random_weight(5) + 0.5
    largest = float(relevance.square().max())
    accepted = []
    for picks in itertools.permutations(range(5)):
        step = None
        for position in range(5):
            gains = gains_at(x, relevance, list(picks[:position]))
            best = max(gains.values())
            no_gain = best < THRESHOLD / 2 * largest
            wrong = picks[position] != min(gains) if no_gain else best - gains[picks[position]] > THRESHOLD * largest
            if wrong:
                step = position
                break
        verdict = verify_trace("dpp", x, torch.tensor(picks), relevance)
        assert verdict.step == step
        if verdict:
            accepted.append(list(picks))
    assert accepted == [python_ref.dpp(x, relevance, 5)[0].tolist()]
    assert verify_trace("dpp", x, torch.tensor(accepted[0]), relevance).decisive


@pytest.mark.parametrize("largest", [1.0, 1e4, 1e-4])
def test_a_pick_may_fall_short_by_the_threshold(largest):
    for share, right in ((0.9, True), (1.1, False)):
        x, relevance = with_gains(largest, largest / 2, largest / 2 - share * THRESHOLD * largest)
        verdict = verify_trace("dpp", x, torch.tensor([0, 2]), relevance)
        assert verdict.step == (None if right else 1)
        assert verdict.shortfall == pytest.approx(share * THRESHOLD * largest, rel=0.02)
        if not right:
            assert verdict.tolerance == pytest.approx(THRESHOLD * largest, rel=1e-6)
            assert verdict.reason == "row 2 is picked where row 1 is better"


@pytest.mark.parametrize(("lead", "decisive"), [(3.9e-5, False), (4.1e-5, True)])
def test_decisive_means_a_lead_of_twice_the_threshold(lead, decisive):
    x, relevance = with_gains(1.0, 0.5, 0.5 - lead)
    assert verify_trace("dpp", x, torch.tensor([0, 1, 2]), relevance).decisive == decisive


def test_where_no_row_has_a_gain_the_lowest_index_comes_first():
    x, relevance = with_gains(1.0, 0.4e-5, 0.3e-5)
    assert verify_trace("dpp", x, torch.tensor([0, 1, 2]), relevance).decisive
    verdict = verify_trace("dpp", x, torch.tensor([0, 2, 1]), relevance)
    assert (verdict.step, verdict.reason) == (1, "row 2 is picked where no row has a gain and row 1 comes first")
    duplicates = torch.ones(4, 3)
    assert verify_trace("dpp", duplicates, torch.tensor([0, 1, 2, 3]), torch.ones(4))
    assert verify_trace("dpp", duplicates, torch.tensor([2, 0, 1, 3]), torch.ones(4))
    assert verify_trace("dpp", duplicates, torch.tensor([0, 1, 3, 2]), torch.ones(4)).step == 2
    assert verify_trace("dpp", duplicates, torch.tensor([1, 0, 2, 3]), torch.zeros(4)).step == 0


def test_near_the_threshold_a_gain_counts_or_does_not():
    x, relevance = with_gains(1.0, 1.5e-5, 2.5e-5)
    for picks in ([0, 1, 2], [0, 2, 1]):
        verdict = verify_trace("dpp", x, torch.tensor(picks), relevance)
        assert verdict
        assert not verdict.decisive
    x, relevance = with_gains(1.0, 0.5e-5, 3.1e-5)
    assert verify_trace("dpp", x, torch.tensor([0, 1, 2]), relevance).step == 1


@pytest.mark.parametrize("step", [0, 3])
def test_reported_gains_are_held_to_half_the_threshold(step):
    x, relevance = gaussian_tokens(10, 6), random_weight(10)
    indices, scores = python_ref.dpp(x, relevance, 5)
    eps = THRESHOLD / 2 * float(relevance.square().max())
    for error, right in ((0.9, True), (-0.9, True), (1.1, False), (-1.1, False), (math.inf, False), (math.nan, False)):
        reported = scores.float()
        reported[step] += error * eps
        verdict = verify_trace("dpp", x, indices, relevance, scores=reported)
        assert verdict.step == (None if right else step)


@pytest.mark.parametrize(("gain", "right"), [(2.9e-5, True), (3.1e-5, False)])
def test_a_gain_near_the_threshold_may_be_reported_as_none(gain, right):
    x, relevance = with_gains(1.0, gain)
    assert bool(verify_trace("dpp", x, torch.tensor([0, 1]), relevance, scores=torch.tensor([1.0, 0.0]))) == right


def test_a_replay_takes_negative_relevance_for_none():
    x, relevance = torch.eye(3), torch.tensor([-2.0, 1.0, 0.5])
    assert verify_trace("dpp", x, torch.tensor([1, 2, 0]), relevance)
    assert verify_trace("dpp", x, torch.tensor([0, 1, 2]), relevance).step == 0


@pytest.mark.kernel
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    ("tokens", "k"),
    [
        (lambda: gaussian_tokens(1_500, 700), 500),
        (lambda: gaussian_tokens(400, 96), 400),
        (lambda: clustered_tokens(900, 64, clusters=30), 300),
    ],
    ids=["noise", "more rows than dimensions", "clusters"],
)
@slow_if(lambda k: k == 500)
def test_many_picks_keep_their_accuracy(dtype, tokens, k):
    x = tokens().to(dtype)
    for relevance in (torch.ones(len(x)), random_weight(len(x)), (4 * random_weight(len(x), seed=1)).exp()):
        indices, scores = ops.dpp.scores(x, relevance, k)
        verdict = verify_trace("dpp", x, indices, relevance, scores=scores)
        assert verdict, verdict


@pytest.mark.kernel
def test_equal_relevance_ties_the_first_picks_exactly():
    x = gaussian_tokens(300, 33) * torch.logspace(-3, 3, 300)[:, None]
    for start in range(0, 300, 3):
        assert ops.dpp(x[start:], torch.full((300 - start,), 0.7), 1).tolist() == [0]
    assert ops.dpp(torch.eye(20), torch.ones(20), 20).tolist() == list(range(20))


@pytest.mark.kernel
@pytest.mark.parametrize("count", [5, 300])
def test_no_gain_at_all(count):
    for x, relevance in (
        (torch.zeros(count, 8), torch.ones(count)),
        (gaussian_tokens(count, 8), torch.zeros(count)),
    ):
        indices, scores = ops.dpp.scores(x, relevance, count)
        assert indices.tolist() == list(range(count))
        assert scores.tolist() == [0.0] * count


@pytest.mark.kernel
@pytest.mark.parametrize("largest", [1.0, 1e-6, 1e6])
def test_gains_below_the_threshold_count_as_zero(largest):
    x, relevance = with_gains(*(gain * largest for gain in (1.0, 1.9e-5, 0.5e-5, 2.1e-5, 1.5e-5, 2.2e-5)))
    indices, scores = ops.dpp.scores(x, relevance, 6)
    assert indices.tolist() == [0, 5, 3, 1, 2, 4]
    assert scores.tolist() == pytest.approx([largest, 2.2e-5 * largest, 2.1e-5 * largest, 0.0, 0.0, 0.0])


@pytest.mark.kernel
@pytest.mark.parametrize("exponent", [-140, -100, -3, 5, 60, 120])
def test_a_power_of_two_changes_no_pick(exponent):
    x, relevance = gaussian_tokens(60, 24), (random_weight(60) + 0.5).bfloat16().float()
    indices, scores = ops.dpp.scores(x, relevance, 40)
    scaled, scaled_scores = ops.dpp.scores(x, relevance * 2.0**exponent, 40)
    assert torch.equal(scaled, indices)
    # As float64 numbers of float32's range: what overflows is infinite.
    assert torch.equal(scaled_scores, (scores.double() * 4.0**exponent).float())


@pytest.mark.kernel
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_largest_relevance_may_be_of_a_row_that_counts_for_nothing(dtype):
    x, relevance = torch.tensor([[0, 0], [1, 0], [0, 1]]).to(dtype), torch.tensor([1e25, 1.0, 2.0])
    for largest in (1e25, 3e38, 0.0):
        relevance[0] = largest
        for scale in (1.0, 1e-25, 1e-15):
            given = relevance * torch.tensor([1.0, scale, scale])
            indices, scores = ops.dpp.scores(x, given, 3)
            assert indices.tolist() == [2, 1, 0]
            assert scores.tolist() == (given.double().square() * torch.tensor([0, 1, 1])).float()[[2, 1, 0]].tolist()
            judged("dpp", x, given, 3)


@pytest.mark.kernel
@pytest.mark.parametrize("norm", [1e-13, 1e-16, 1e-19])
def test_the_largest_relevance_may_be_of_a_row_that_counts_for_little(norm):
    x = torch.eye(3) * torch.tensor([norm, 1.0, 1.0])[:, None]
    # The first row's kernel entry lies between the others.
    relevance = torch.tensor([1e-12 / norm, 2.0, 0.25]) * 1e15
    indices, scores = ops.dpp.scores(x, relevance, 3)
    assert indices.tolist() == [1, 0, 2]
    assert scores.tolist() == pytest.approx([4e30, 1e30, 6.25e28], rel=1e-5)
    judged("dpp", x, relevance, 3)


@pytest.mark.kernel
@pytest.mark.parametrize("relevance", [3e38, 1e20, 1e-20, 1e-22, 1e-44])
def test_gains_outside_the_range_of_float32(relevance):
    x, relevance = gaussian_tokens(6, 8), torch.full((6,), relevance)
    judged("dpp", x, relevance, 6)
    indices, scores = ops.dpp.scores(x, relevance, 6)
    for step in range(6):
        for wrong in (1.0, math.nan, -math.inf, float(scores[step].nextafter(torch.tensor(0.0)) * 0.99) or 1e-40):
            reported = scores.clone()
            reported[step] = wrong
            verdict = verify_trace("dpp", x, indices, relevance, scores=reported)
            assert verdict.step == step


def test_a_non_finite_row_has_no_gain_to_report():
    x = torch.tensor([[1.0, 0.0], [math.nan, 1.0]])
    for reported, right in ((-math.inf, True), (0.0, False), (math.inf, False)):
        scores = torch.tensor([1.0, reported])
        assert bool(verify_trace("dpp", x, torch.tensor([0, 1]), torch.ones(2), scores=scores)) == right


@pytest.mark.kernel
def test_rows_without_relevance_come_last_of_the_finite_ones():
    x, relevance = gaussian_tokens(30, 40), random_weight(30) + 0.1
    relevance[[2, 9, 17]] = torch.tensor([0.0, -0.0, 1e-5])
    x[21] = torch.nan
    x[25] = 0
    indices, scores = ops.dpp.scores(x, relevance, 30)
    assert indices[-5:].tolist() == [2, 9, 17, 25, 21]
    assert scores[-5:].tolist() == [0.0] * 4 + [-math.inf]
    assert (scores[:-5] > 0).all()


@pytest.mark.kernel
@pytest.mark.parametrize("count", [200, 1_200])
def test_orthogonal_and_equal_rows_are_exact(count):
    x, relevance = exact_tokens(count, 64, non_zeros=1), exact_weight("dpp", count)
    indices, scores = ops.dpp.scores(x, relevance, count)
    expected, expected_scores = python_ref.dpp(x, relevance, count)
    assert torch.equal(indices, expected)
    assert torch.equal(scores, expected_scores.float())


@pytest.mark.kernel
def test_gains_only_fall():
    _, scores = ops.dpp.scores(gaussian_tokens(500, 80), random_weight(500), 300)
    assert (scores.diff() <= 0).all()


def test_finite_rows_are_those_of_the_other_methods():
    relevance = torch.tensor([1.0, math.inf, math.nan, -math.inf, 0.5])
    assert finite_rows(torch.eye(5), relevance).tolist() == [True, False, False, False, True]
    assert judged("dpp", torch.eye(5), relevance, 5)[0].tolist() == [0, 4, 1, 2, 3]


def test_random_orders_are_rejected():
    x, relevance = gaussian_tokens(40, 64), random_weight(40)
    for seed in range(5):
        order = torch.randperm(40, generator=generator(seed))
        assert not verify_trace("dpp", x, order, relevance)
