"""The judge of selections: it accepts what the contract allows, and names the first step that is wrong."""

import itertools
import math

import pytest
import torch

import python_ref
from python_ref import published
from tests.oracle.by_hand import (
    BY_RUNNING_MAXIMUM,
    LAM,
    first_beyond,
    leads,
    relevance_for,
    scores_at,
    shortfalls,
    weight_for,
)
from tests.support.inputs import (
    DTYPES,
    METHODS,
    exact_tokens,
    exact_tokens_for,
    exact_weight,
    gaussian_tokens,
    generator,
    oracle,
)
from tests.support.varlen import prefix_sums
from tokenprune_kernels.verify import replay, verify_trace, verify_trace_varlen


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("leading", [(), (2, 2), (0, 3)], ids=str)
def test_the_oracle_is_right(method, dtype, leading):
    x, weight = gaussian_tokens(*leading, 40, 9, dtype=dtype), weight_for(method, *leading, 40)
    indices, scores = oracle(method, x, weight, 40, LAM)
    verdict = verify_trace(method, x, indices, weight, LAM, scores.float(), k=40)
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
    verdict = verify_trace(method, x, indices, weight, scores=scores.float())
    assert verdict
    assert verdict.shortfall == 0.0
    assert not verdict.decisive


@pytest.mark.parametrize("method", METHODS)
def test_the_oracle_is_right_on_rows_of_any_norm(method):
    x, weight = gaussian_tokens(34, 9) * 10.0 ** torch.arange(-17, 17).unsqueeze(-1), weight_for(method, 34)
    indices, scores = oracle(method, x, weight, 34, LAM)
    verdict = verify_trace(method, x, indices, weight, LAM, scores.float())
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
        ({"indices": indices.int()}, "expected indices of torch.int64, got torch.int32"),
        ({"indices": indices, "scores": scores}, "expected scores of torch.float32, got torch.float64"),
    ]:
        verdict = verify_trace("divprune", x, **given)
        assert (verdict.step, verdict.reason, verdict.shortfall) == (0, reason, math.inf)
    verdict = verify_trace("divprune", x[0], indices[0, 0])
    assert (verdict.step, verdict.reason) == (0, "expected indices of at least one dimension, got a single number")


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
    for lam, text in ((-0.1, "-0.1"), (1.5, "1.5"), (math.nan, "nan")):
        message = rf"^expected lam to be in \[0, 1\], got {text}$"
        with pytest.raises(ValueError, match=message):
            verify_trace("mmr", x, picks, torch.ones(2), lam)
        with pytest.raises(ValueError, match=message):
            verify_trace_varlen("mmr", x, picks, sums, sums, torch.ones(2), lam)
    with pytest.raises(ValueError, match="expected cu_k to rise from 0 to at most 1"):
        verify_trace_varlen("divprune", x, picks, sums, sums, total_k=1)
    with pytest.raises(ValueError, match="expected cu_seqlens to rise from 0 to at most 2"):
        verify_trace_varlen("divprune", x, picks, prefix_sums(3), sums)
