"""The materialised and the lazy greedy form on the Triton backend, bit for bit."""

import pytest
import torch

from tests.support.forms import METHODS_WITH_FORMS, assert_equal, given
from tests.support.inputs import (
    arguments,
    exact_tokens,
    exact_weight,
    gaussian_tokens,
    judged,
    ops,
    oracle,
    random_weight,
)
from tests.support.slow import always, slow_if_interpreted
from tests.support.varlen import prefix_sums, varlen_arguments

pytest.importorskip("triton", reason="the Triton backend needs triton")

from tokenprune_kernels.backends.triton import configs

pytestmark = pytest.mark.parametrize(
    "backend",
    [
        pytest.param(("triton", "cpu"), id="triton", marks=pytest.mark.interpret),
        pytest.param(("triton", "cuda"), id="gpu", marks=pytest.mark.gpu),
    ],
    indirect=True,
)

# The most candidates of a round, and the rounds after which there is one candidate at a time.
ROUNDS = [{}, {"max_candidates": 3}, {"max_candidates": 5, "max_rounds": 1}]


@pytest.mark.parametrize("method", ["divprune", "idpruner"])
@pytest.mark.parametrize(
    ("kind", "rows", "picks"),
    [
        ("gaussian", 70, 9),
        ("gaussian", 1, 1),
        ("clustered", 130, 9),
        ("exact", 70, 9),
        ("duplicates", 20, 20),
        ("zeros", 20, 20),
        ("some non-finite", 20, 20),
        ("all but one non-finite", 12, 12),
        ("all non-finite", 9, 9),
    ],
)
@slow_if_interpreted(lambda method, kind: kind == "clustered" or (method != "divprune" and kind != "some non-finite"))
def test_every_form_gives_the_same_bits(backend, force, method, kind, rows, picks):
    x, weight = given(kind, rows)
    select = getattr(ops, method).scores
    force(form="materialised")
    expected = select(*arguments(method, x, weight, picks))
    for rounds in ROUNDS:
        force(form="lazy_greedy", **rounds)
        assert_equal(select(*arguments(method, x, weight, picks)), expected)
    assert_equal(select(*arguments(method, x, weight, 1)), [each[:1] for each in expected])


@pytest.mark.parametrize("method", ["mmr", "idpruner"])
@pytest.mark.parametrize("lam", [0.0, 1.0])
def test_every_form_gives_the_same_bits_at_either_end_of_lam(backend, force, method, lam):
    x, weight = given("some non-finite", 15)
    force(form="materialised")
    expected = getattr(ops, method).scores(*arguments(method, x, weight, 15, lam))
    force(form="lazy_greedy", max_candidates=5)
    assert_equal(getattr(ops, method).scores(*arguments(method, x, weight, 15, lam)), expected)


@pytest.mark.parametrize("method", METHODS_WITH_FORMS)
@pytest.mark.parametrize("rounds", [{}, {"max_candidates": 2, "max_rounds": 1}], ids=["all", "one"])
@slow_if_interpreted(lambda method, rounds: method == "idpruner" or not rounds)
def test_every_form_gives_the_same_bits_in_a_batch(backend, force, method, rounds):
    x, weight = gaussian_tokens(3, 8, 1_040, dtype=torch.bfloat16), random_weight(3, 8)
    force(form="materialised")
    expected = getattr(ops, method).scores(*arguments(method, x, weight, 8))
    force(form="lazy_greedy", **rounds)
    assert_equal(getattr(ops, method).scores(*arguments(method, x, weight, 8)), expected)


@pytest.mark.parametrize("method", METHODS_WITH_FORMS)
@pytest.mark.parametrize("rounds", [{}, {"max_candidates": 2, "max_rounds": 1}], ids=["all", "one"])
@slow_if_interpreted(lambda rounds: not rounds)
def test_every_form_gives_the_same_bits_in_a_ragged_batch(backend, force, method, rounds):
    counts, ks = (0, 65, 1, 0, 30, 4), (0, 6, 1, 0, 0, 4)
    x, weight = given("some non-finite", 100)
    given_arguments = varlen_arguments(method, x, weight, prefix_sums(*counts), prefix_sums(*ks), 13, 65)
    force(form="materialised")
    expected = getattr(ops, f"{method}_varlen").scores(*given_arguments)
    force(form="lazy_greedy", **rounds)
    assert_equal(getattr(ops, f"{method}_varlen").scores(*given_arguments), expected)


@pytest.mark.parametrize("method", METHODS_WITH_FORMS)
def test_one_round_of_candidates_leaves_all_picks_exact(backend, force, method):
    x, weight = exact_tokens(20, 16, non_zeros=4), exact_weight(method, 20)
    force(form="lazy_greedy", max_candidates=8, max_rounds=1)
    assert torch.equal(getattr(ops, method)(*arguments(method, x, weight, 20)), oracle(method, x, weight, 20)[0])
    judged(method, gaussian_tokens(20, 24), random_weight(20), 12)


@pytest.mark.parametrize("method", ["divprune", "mmr"])
@pytest.mark.parametrize("max_candidates", [None, 40])
@slow_if_interpreted(lambda method, max_candidates: (method == "mmr") != (max_candidates is None))
def test_more_rows_than_are_chosen_from_at_a_time(backend, force, method, max_candidates):
    x, weight = gaussian_tokens(1_100, 4, dtype=torch.bfloat16), random_weight(1_100)
    x[500:1_060] = x[:560].clone()  # ties between rows looked at together and apart
    force(form="materialised")
    expected = getattr(ops, method).scores(*arguments(method, x, weight, 6))
    force(form="lazy_greedy", max_candidates=max_candidates)
    assert_equal(getattr(ops, method).scores(*arguments(method, x, weight, 6)), expected)


@pytest.mark.parametrize("method", METHODS_WITH_FORMS)
def test_candidates_do_not_depend_on_what_the_search_for_the_first_pick_compared(backend, force, method):
    x, weight = gaussian_tokens(40, 8), random_weight(40)
    force(form="lazy_greedy", max_candidates=3)
    alone = getattr(ops, method).scores(*arguments(method, x, weight, 7))
    beside = getattr(ops, method).scores(*arguments(method, torch.stack([x.flip(0), x]), weight.expand(2, -1), 7))
    assert_equal([result[1] for result in beside], alone)


def test_split_k_gives_the_same_bits(backend, force, monkeypatch):
    x, weight = gaussian_tokens(2, 100, 2_100, dtype=torch.bfloat16), random_weight(2, 100)
    force(form="materialised")
    results = []
    for splits in (1, 3):
        monkeypatch.setattr(configs, "split_k", lambda *_, splits=splits: splits)
        # Without relevance a score is a similarity, to the last bit.
        results.append(ops.mmr.scores(x, weight, 20, 0.0))
        results.append(ops.mmr_varlen.scores(x[1], weight[1], prefix_sums(100), prefix_sums(20), 20, 100, 0.0))
    assert_equal(results[2], results[0])
    assert_equal(results[3], results[1])
    assert torch.equal(results[1][1], results[0][1][1])


@slow_if_interpreted(always)
def test_split_k_gives_the_same_bits_in_the_lazy_greedy_form(backend, force, monkeypatch):
    # Relevance decides, so that a round updates with all 70 picks of the one before: two blocks of them.
    given_arguments = gaussian_tokens(150, 1_032, dtype=torch.bfloat16), torch.linspace(1, 0, 150), 145, 0.99
    force(form="materialised")
    expected = ops.mmr.scores(*given_arguments)
    force(form="lazy_greedy", max_candidates=70)
    monkeypatch.setattr(configs, "split_k", lambda *_: 2)
    assert_equal(ops.mmr.scores(*given_arguments), expected)


@slow_if_interpreted(always)
def test_candidates_of_very_many_segments_are_fewer(backend, force):
    x, weight = gaussian_tokens(200, 16, dtype=torch.bfloat16), random_weight(200)
    given_arguments = varlen_arguments("mmr", x, weight, prefix_sums(100, 20, 80), prefix_sums(90, 9, 70), 169, 100)
    force(form="materialised")
    expected = ops.mmr_varlen.scores(*given_arguments)
    force(form="lazy_greedy", workspace_limit=4 * 3 * 64**2)
    assert_equal(ops.mmr_varlen.scores(*given_arguments), expected)


def test_tiles_beyond_one_group_of_the_swizzle(backend, force):
    x = exact_tokens(64 * 9 + 5, 4, non_zeros=4)
    force(form="lazy_greedy")
    expected = ops.divprune.scores(x, 6)
    force(form="materialised")
    assert_equal(ops.divprune.scores(x, 6), expected)
    assert torch.equal(ops.divprune(x, 6), oracle("divprune", x, None, 6)[0])
