"""The judge of selections: it accepts what the contract allows, and names the first step that is wrong."""

import itertools
import math

import pytest
import torch

import python_ref
from python_ref import published
from tests.support.inputs import (
    DTYPES,
    METHODS,
    exact_tokens,
    exact_tokens_for,
    exact_weight,
    gaussian_tokens,
    generator,
    oracle,
    random_weight,
)
from tests.support.varlen import prefix_sums
from tokenprune_kernels.verify import replay, verify_trace, verify_trace_varlen

LAM = 0.3
BY_RUNNING_MAXIMUM = ("divprune", "mmr", "idpruner")  # whose scores are restated here; test_dpp.py has the DPP's


def weight_for(method, *shape, seed=0):
    return None if method == "divprune" else random_weight(*shape, seed=seed)


def relevance_for(method, weight):
    if method == "divprune":
        return None
    relevance = (
        weight if method == "mmr" else python_ref.relevance_of(weight, torch.ones(len(weight), dtype=torch.bool))
    )
    return relevance.tolist()


def cosine(a, b):
    return math.fsum(p * q for p, q in zip(a, b, strict=True)) / (math.hypot(*a) * math.hypot(*b))


def scores_at(rows, selected, relevance=None, lam=LAM):
    """The score of every unselected row, in Python floats."""
    scores = {}
    for i in set(range(len(rows))) - set(selected):
        if relevance is not None and not selected:
            scores[i] = relevance[i]
            continue
        nearest = max(cosine(rows[i], rows[j]) for j in selected or range(len(rows)) if j != i)
        scores[i] = 1 - nearest if relevance is None else lam * relevance[i] - (1 - lam) * nearest
    return scores


def shortfalls(rows, picks, relevance=None, lam=LAM):
    """By how much each pick falls short of the best score at its step."""
    amounts = []
    for step, pick in enumerate(picks):
        scores = scores_at(rows, picks[:step], relevance, lam)
        amounts.append(max(scores.values()) - scores[pick])
    return amounts


def leads(rows, picks, relevance=None, lam=LAM):
    """By how much the best score beats the runner-up at each step."""
    amounts = []
    for step in range(len(picks)):
        best, *others = sorted(scores_at(rows, picks[:step], relevance, lam).values(), reverse=True)
        amounts.append(best - others[0] if others else math.inf)
    return amounts


def first_beyond(amounts, tolerance=2e-5):
    return next((step for step, amount in enumerate(amounts) if amount > tolerance), None)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("leading", [(), (2, 2), (0, 3)], ids=str)
def test_the_oracle_is_right(method, dtype, leading):
    x, weight = gaussian_tokens(*leading, 40, 9, dtype=dtype), weight_for(method, *leading, 40)
    indices, scores = oracle(method, x, weight, 40, LAM)
    verdict = verify_trace(method, x, indices, weight, LAM, scores, k=40)
    assert verdict
    assert (verdict.step, verdict.reason) == (None, "")
    assert verdict.shortfall <= 1e-12


@pytest.mark.parametrize("method", METHODS)
def test_the_oracle_is_right_on_ties_and_non_finite_rows(method):
    x, weight = exact_tokens_for(method, 50, 8, non_zeros=4), exact_weight(method, 50)
    x[[3, 17, 41], 0] = torch.tensor([torch.nan, torch.inf, 3e38])
    x[29] = 0.0
    weight[[8, 9]] = torch.tensor([torch.nan, -torch.inf])
    weight = None if method == "divprune" else weight
    indices, scores = oracle(method, x, weight, 50)
    verdict = verify_trace(method, x, indices, weight, scores=scores)
    assert verdict
    assert verdict.shortfall == 0.0
    assert not verdict.decisive


@pytest.mark.parametrize("method", METHODS)
def test_the_oracle_is_right_on_rows_of_any_norm(method):
    x, weight = gaussian_tokens(34, 9) * 10.0 ** torch.arange(-17, 17).unsqueeze(-1), weight_for(method, 34)
    indices, scores = oracle(method, x, weight, 34, LAM)
    verdict = verify_trace(method, x, indices, weight, LAM, scores)
    assert verdict
    assert verdict.shortfall <= 1e-12


@pytest.mark.parametrize("method", BY_RUNNING_MAXIMUM)
@pytest.mark.parametrize("x", [gaussian_tokens(5, 3), exact_tokens(5, 4, non_zeros=4)], ids=["distinct", "tied"])
def test_every_order_of_five_rows_is_judged_as_by_hand(method, x):
    weight = weight_for(method, 5)
    relevance = relevance_for(method, weight)
    accepted, decisive = [], []
    for picks in itertools.permutations(range(5)):
        amounts = shortfalls(x.tolist(), picks, relevance)
        verdict = verify_trace(method, x, torch.tensor(picks), weight, LAM)
        step = first_beyond(amounts)
        assert verdict.step == step
        assert verdict.shortfall == pytest.approx(max(amounts) if step is None else amounts[step], abs=1e-12)
        assert verdict.tolerance == 2e-5
        if verdict:
            accepted.append(list(picks))
            decisive.append(verdict.decisive)
            assert verdict.decisive == (min(leads(x.tolist(), picks, relevance)) > 4e-5)
    assert len(accepted) == 1 or not any(decisive)
    assert oracle(method, x, weight, 5, LAM)[0].tolist() in accepted


@pytest.mark.parametrize("method", BY_RUNNING_MAXIMUM)
def test_exchanged_picks_are_wrong_from_the_first_of_them(method):
    x, weight = gaussian_tokens(12, 6, seed=1), weight_for(method, 12)
    picks = oracle(method, x, weight, 12, LAM)[0].tolist()
    assert min(leads(x.tolist(), picks, relevance_for(method, weight))[1:]) > 4e-5
    # Without step 0, where DivPrune's best row may be tied with its nearest neighbour.
    for a, b in itertools.combinations(range(1, 12), 2):
        exchanged = list(picks)
        exchanged[a], exchanged[b] = picks[b], picks[a]
        verdict = verify_trace(method, x, torch.tensor(exchanged), weight, LAM)
        assert verdict.step == a
        assert verdict.reason == f"row {picks[b]} is picked where row {picks[a]} is better"
        scores = scores_at(x.tolist(), picks[:a], relevance_for(method, weight))
        assert verdict.shortfall == pytest.approx(scores[picks[a]] - scores[picks[b]], abs=1e-12)


def test_shortfall_of_a_known_wrong_pick():
    # Nearest neighbours at 0, 1, 1 and 0; after rows 1 and 2 the first row is at 1, after row 0 the last at 0.
    x = torch.tensor([[1.0, 0.0], [0.0, 2.0], [-3.0, 0.0], [4.0, 0.0]])
    assert verify_trace("divprune", x, torch.tensor([1, 0, 2, 3]))
    late = verify_trace("divprune", x, torch.tensor([1, 0, 3, 2]))
    assert (late.step, late.shortfall, late.tolerance) == (2, 1.0, 2e-5)
    assert late.reason == "row 3 is picked where row 2 is better"
    early = verify_trace("divprune", x, torch.tensor([3, 2, 1, 0]))
    assert (early.step, early.shortfall) == (0, 1.0)
    assert early.reason == "row 3 is picked where row 1 is better"


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("step", [0, 1, 5])
@pytest.mark.parametrize("index", [-1, 20, 1 << 40])
def test_indices_out_of_range(method, step, index):
    x, weight = gaussian_tokens(20, 4), weight_for(method, 20)
    indices = oracle(method, x, weight, 6, LAM)[0]
    indices[step] = index
    verdict = verify_trace(method, x, indices, weight, LAM)
    assert (verdict.step, verdict.reason) == (step, f"index {index} is not in [0, 20)")
    assert verdict.shortfall == math.inf


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("step", "earlier"), [(1, 0), (5, 2)])
def test_repeated_indices(method, step, earlier):
    # All rows are equal: a repetition falls short of nothing.
    x, weight = torch.ones(8, 3), None if method == "divprune" else torch.ones(8)
    indices = torch.arange(6)
    assert verify_trace(method, x, indices, weight)
    indices[step] = indices[earlier]
    verdict = verify_trace(method, x, indices, weight)
    assert (verdict.step, verdict.reason) == (step, f"index {earlier} is repeated")


@pytest.mark.parametrize("loop", [published.published_divprune, published.running_minimum_divprune])
@pytest.mark.parametrize("seed", range(3))
def test_similarities_rounded_to_bfloat16_are_found_out(loop, seed):
    x = (gaussian_tokens(200, 64, seed=seed) + 2 * gaussian_tokens(64, seed=seed + 10)).bfloat16()
    picks = loop(x, 20)
    amounts = shortfalls(x.tolist(), picks.tolist())
    verdict = verify_trace("divprune", x, picks)
    assert verdict.step is not None
    assert verdict.step == first_beyond(amounts)
    assert verdict.shortfall == pytest.approx(amounts[verdict.step], abs=1e-12)
    # The same loop on the same tokens is right when it computes in float32.
    assert verify_trace("divprune", x, loop(x.float(), 20))


@pytest.mark.parametrize("method", BY_RUNNING_MAXIMUM)
def test_every_wrong_first_pick_is_found(method):
    x, weight = gaussian_tokens(30, 5), weight_for(method, 30)
    scores = scores_at(x.tolist(), [], relevance_for(method, weight))
    best = max(scores.values())
    wrong = [row for row, score in scores.items() if best - score > 2e-5]
    assert len(wrong) >= 28
    for row in range(30):
        verdict = verify_trace(method, x, torch.tensor([row]), weight, LAM)
        assert verdict.step == (0 if row in wrong else None)
        assert verdict.shortfall == pytest.approx(best - scores[row], abs=1e-12)


@pytest.mark.parametrize("method", METHODS)
def test_non_finite_rows_come_last_in_index_order(method):
    x, weight = torch.eye(6), None if method == "divprune" else torch.ones(6)
    x[1, 0], x[4, 2] = torch.nan, torch.inf
    assert verify_trace(method, x, torch.tensor([0, 2, 3, 5, 1, 4]), weight)
    for picks, step, reason in [
        ([0, 1, 2, 3, 5, 4], 1, "non-finite row 1 is picked before a finite row"),
        ([4, 0, 2, 3, 5, 1], 0, "non-finite row 4 is picked before a finite row"),
        ([0, 2, 3, 5, 4, 1], 4, "non-finite row 4 is picked before non-finite row 1"),
    ]:
        verdict = verify_trace(method, x, torch.tensor(picks), weight)
        assert (verdict.step, verdict.reason, verdict.decisive) == (step, reason, False)


@pytest.mark.parametrize("weight", [torch.nan, torch.inf, 1e300])
def test_rows_of_non_finite_weight_come_last(weight):
    weights = torch.tensor([0.0, weight, 1.0], dtype=torch.float64)
    for method in ("mmr", "idpruner"):
        assert verify_trace(method, torch.eye(3), torch.tensor([2, 0, 1]), weights)
        assert verify_trace(method, torch.eye(3), torch.tensor([1, 2, 0]), weights).step == 0


def test_the_only_finite_row_comes_first():
    x = torch.tensor([[torch.nan, 1.0], [1.0, 1.0], [torch.nan, 1.0]])
    verdict = verify_trace(
        "divprune", x, torch.tensor([1, 0, 2]), scores=torch.tensor([torch.inf, -torch.inf, -torch.inf])
    )
    assert verdict
    assert verdict.decisive
    assert verify_trace("divprune", x, torch.tensor([0, 1, 2])).step == 0


@pytest.mark.parametrize("method", BY_RUNNING_MAXIMUM)
@pytest.mark.parametrize("step", [0, 3])
def test_reported_scores_are_held_to_eps(method, step):
    x, weight = gaussian_tokens(10, 4), weight_for(method, 10)
    indices, scores = oracle(method, x, weight, 5, LAM)
    for error in (0.9e-5, -0.9e-5):
        reported = scores.clone()
        reported[step] += error
        assert verify_trace(method, x, indices, weight, LAM, reported)
    for error in (1.1e-5, -1.1e-5, math.inf, -math.inf, math.nan):
        reported = scores.clone()
        reported[step] += error
        verdict = verify_trace(method, x, indices, weight, LAM, reported)
        assert verdict.step == step
        assert "is reported with score" in verdict.reason
        assert verdict.tolerance == 1e-5
        assert verdict.shortfall == pytest.approx(abs(error), rel=1e-6, nan_ok=True)


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
        assert verify_trace(method, x, indices, weight.float(), scores=scores)
        assert verify_trace(method, x, indices, weight, scores=scores)


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


def test_a_wrong_item_of_a_batch_is_named():
    x = gaussian_tokens(2, 3, 8, 4)
    indices = python_ref.divprune(x, 8)[0]
    indices[1, 2, 5] = indices[1, 2, 6] = 99
    verdict = verify_trace("divprune", x, indices)
    assert (verdict.item, verdict.step) == ((1, 2), 5)


def near_ties(count, seed):
    """Groups of three at right angles: two close rows, and one at a distance of them that is nearly that of the others.

    The distances of the lone rows fall short of the largest by 1e-8 to 1e-3.
    """
    groups = count // 3
    angle = 1 - 10 ** (-8 + 5 * torch.rand(groups, 1, generator=generator(seed), dtype=torch.float64))
    near, far = torch.eye(2 * groups, dtype=torch.float64).chunk(2)
    rows = torch.cat([near, angle.cos() * near + angle.sin() * far, 0.9 * near - 0.1 * far])
    turned, _ = torch.linalg.qr(gaussian_tokens(2 * groups, 2 * groups, seed=seed).double())
    return (rows @ turned).float()


@pytest.mark.parametrize(
    "x",
    [near_ties(60, 0), near_ties(60, 1), gaussian_tokens(60, 8), exact_tokens(60, 16, non_zeros=4)],
    ids=["near ties", "more near ties", "distinct", "ties"],
)
def test_first_pick_of_many_rows_is_judged_as_of_few(monkeypatch, x):
    x = x.index_fill(0, torch.tensor([59]), torch.nan)
    exact = [verify_trace("divprune", x, torch.tensor([row])) for row in range(len(x))]
    dtypes = set()
    nearest_distances = replay.Replay._nearest_distances

    def recorded(self, rows, dtype):
        dtypes.add(dtype)
        return nearest_distances(self, rows, dtype)

    monkeypatch.setattr(replay.Replay, "_nearest_distances", recorded)
    monkeypatch.setattr(replay, "EXACT_FIRST_PICK_ROWS", 10)
    monkeypatch.setattr(replay, "_BLOCK_ROWS", 7)
    for row, expected in enumerate(exact):
        verdict = verify_trace("divprune", x, torch.tensor([row]))
        assert (verdict.step, verdict.decisive) == (expected.step, expected.decisive)
        assert verdict.shortfall == pytest.approx(expected.shortfall, abs=1e-14)
    assert dtypes == {torch.float32, torch.float64}
    assert {verdict.step for verdict in exact} == {None, 0}


def test_the_form_of_a_result_is_checked():
    x = gaussian_tokens(2, 5, 3)
    indices, scores = python_ref.divprune(x, 3)
    for given, reason in [
        ({"indices": indices[:, :2], "k": 3}, "expected indices of shape [2, 3], got [2, 2]"),
        ({"indices": indices, "k": 2}, "expected indices of shape [2, 2], got [2, 3]"),
        ({"indices": indices[:1]}, "expected indices of shape [2, 3], got [1, 3]"),
        ({"indices": indices.repeat(2, 1)}, "expected indices of shape [2, 3], got [4, 3]"),
        ({"indices": indices, "scores": scores[:, :2]}, "expected scores of shape [2, 3], got [2, 2]"),
        ({"indices": indices.int()}, "expected int64 indices, got torch.int32"),
    ]:
        verdict = verify_trace("divprune", x, **given)
        assert (verdict.step, verdict.reason, verdict.shortfall) == (0, reason, math.inf)


def test_what_cannot_be_judged_is_refused():
    x, picks, sums = torch.eye(2), torch.tensor([0, 1]), prefix_sums(2)
    for method, weight, message in [
        ("fps", None, "expected method to be divprune, mmr, idpruner or dpp, got 'fps'"),
        ("dpp", None, "expected a weight with mmr, idpruner and dpp only, got method 'dpp'"),
        ("mmr", None, "expected a weight with mmr, idpruner and dpp only, got method 'mmr'"),
        ("divprune", torch.ones(2), "expected a weight with mmr, idpruner and dpp only, got method 'divprune'"),
    ]:
        with pytest.raises(ValueError, match=message):
            verify_trace(method, x, picks, weight)
        with pytest.raises(ValueError, match=message):
            verify_trace_varlen(method, x, picks, sums, sums, weight)
    with pytest.raises(ValueError, match="expected cu_k to rise from 0 to at most 1"):
        verify_trace_varlen("divprune", x, picks, sums, sums, total_k=1)
    with pytest.raises(ValueError, match="expected cu_seqlens to rise from 0 to at most 2"):
        verify_trace_varlen("divprune", x, picks, prefix_sums(3), sums)
