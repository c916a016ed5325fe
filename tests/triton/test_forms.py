"""The forms of the algorithms on the Triton backend: materialised similarities and candidate blocks, bit for bit."""

import pytest
import torch

from tests.support.forms import METHODS_WITH_FORMS as METHODS
from tests.support.forms import assert_equal, given
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
from tests.support.varlen import prefix_sums, varlen_arguments

launch = pytest.importorskip("tokenprune_kernels.backends.triton.launch", reason="the Triton backend needs triton")

pytestmark = pytest.mark.parametrize(
    "backend",
    [
        pytest.param(("triton", "cpu"), id="triton", marks=pytest.mark.interpret),
        pytest.param(("triton", "cuda"), id="gpu", marks=pytest.mark.gpu),
    ],
    indirect=True,
)

ENDLESS = 2**31 - 1
# Candidates of a round, and rounds, after which there is one candidate at a time.
ROUNDS = [(None, ENDLESS), (3, ENDLESS), (5, 1)]


@pytest.fixture
def force(monkeypatch):
    """Forces a form, how many candidates there are and for how many rounds."""

    def set_form(form, room=None, rounds=ENDLESS):
        launch.FORM.set(form)
        monkeypatch.setattr(launch, "CANDIDATE_ROOM", room)
        monkeypatch.setattr(launch, "CANDIDATE_ROUNDS", rounds)

    token = launch.FORM.set(None)
    yield set_form
    launch.FORM.reset(token)


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
def test_every_form_gives_the_same_bits(backend, force, method, kind, rows, picks):
    x, weight = given(kind, rows)
    select = getattr(ops, method).scores
    force("materialised")
    expected = select(*arguments(method, x, weight, picks))
    for room, rounds in ROUNDS:
        force("candidates", room, rounds)
        assert_equal(select(*arguments(method, x, weight, picks)), expected)
    assert_equal(select(*arguments(method, x, weight, 1)), [each[:1] for each in expected])


@pytest.mark.parametrize("method", ["mmr", "idpruner"])
@pytest.mark.parametrize("lam", [0.0, 1.0])
def test_every_form_gives_the_same_bits_at_either_end_of_lam(backend, force, method, lam):
    x, weight = given("some non-finite", 15)
    force("materialised")
    expected = getattr(ops, method).scores(*arguments(method, x, weight, 15, lam))
    force("candidates", 5)
    assert_equal(getattr(ops, method).scores(*arguments(method, x, weight, 15, lam)), expected)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("room", "rounds"), [(None, ENDLESS), (2, 1)])
def test_every_form_gives_the_same_bits_in_a_batch(backend, force, method, room, rounds):
    x, weight = gaussian_tokens(3, 8, 1_040, dtype=torch.bfloat16), random_weight(3, 8)
    force("materialised")
    expected = getattr(ops, method).scores(*arguments(method, x, weight, 8))
    force("candidates", room, rounds)
    assert_equal(getattr(ops, method).scores(*arguments(method, x, weight, 8)), expected)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("room", "rounds"), [(None, ENDLESS), (2, 1)])
def test_every_form_gives_the_same_bits_in_a_ragged_batch(backend, force, method, room, rounds):
    counts, kept = (0, 65, 1, 0, 30, 4), (0, 6, 1, 0, 0, 4)
    x, weight = given("some non-finite", 100)
    given_arguments = varlen_arguments(method, x, weight, prefix_sums(*counts), prefix_sums(*kept), 13, 65)
    force("materialised")
    expected = getattr(ops, f"{method}_varlen").scores(*given_arguments)
    force("candidates", room, rounds)
    assert_equal(getattr(ops, f"{method}_varlen").scores(*given_arguments), expected)


@pytest.mark.parametrize("method", METHODS)
def test_one_round_of_candidates_leaves_all_picks_exact(backend, force, method):
    x, weight = exact_tokens(20, 16, non_zeros=4), exact_weight(method, 20)
    force("candidates", 8, rounds=1)
    assert torch.equal(getattr(ops, method)(*arguments(method, x, weight, 20)), oracle(method, x, weight, 20)[0])
    judged(method, gaussian_tokens(20, 24), random_weight(20), 12)


@pytest.mark.parametrize("method", ["divprune", "mmr"])
@pytest.mark.parametrize("room", [None, 40])
def test_more_rows_than_are_chosen_from_at_a_time(backend, force, method, room):
    x, weight = gaussian_tokens(1_100, 4, dtype=torch.bfloat16), random_weight(1_100)
    x[500:1_060] = x[:560].clone()  # ties between rows looked at together and apart
    force("materialised")
    expected = getattr(ops, method).scores(*arguments(method, x, weight, 6))
    force("candidates", room)
    assert_equal(getattr(ops, method).scores(*arguments(method, x, weight, 6)), expected)


@pytest.mark.parametrize("method", METHODS)
def test_candidates_do_not_depend_on_what_the_search_for_the_first_pick_compared(backend, force, method):
    x, weight = gaussian_tokens(40, 8), random_weight(40)
    force("candidates", 3)
    alone = getattr(ops, method).scores(*arguments(method, x, weight, 7))
    beside = getattr(ops, method).scores(*arguments(method, torch.stack([x.flip(0), x]), weight.expand(2, -1), 7))
    assert_equal([result[1] for result in beside], alone)


def test_a_split_depth_gives_the_same_bits(backend, force, monkeypatch):
    x, weight = gaussian_tokens(2, 100, 2_100, dtype=torch.bfloat16), random_weight(2, 100)
    force("materialised")
    results = []
    for parts in (1, 3):
        monkeypatch.setattr(launch, "parts_of_depth", lambda *_, parts=parts: parts)
        # Without relevance a score is a similarity, to the last bit.
        results.append(ops.mmr.scores(x, weight, 20, 0.0))
        results.append(ops.mmr_varlen.scores(x[1], weight[1], prefix_sums(100), prefix_sums(20), 20, 100, 0.0))
    assert_equal(results[2], results[0])
    assert_equal(results[3], results[1])
    assert torch.equal(results[1][1], results[0][1][1])


def test_candidates_of_a_split_depth_give_the_same_bits(backend, force, monkeypatch):
    # Relevance decides, so that a round takes in all 70 picks of the one before: two blocks of them.
    given_arguments = gaussian_tokens(150, 1_032, dtype=torch.bfloat16), torch.linspace(1, 0, 150), 145, 0.99
    force("materialised")
    expected = ops.mmr.scores(*given_arguments)
    force("candidates", 70)
    monkeypatch.setattr(launch, "parts_of_depth", lambda *_: 2)
    assert_equal(ops.mmr.scores(*given_arguments), expected)


def test_candidates_of_very_many_segments_are_fewer(backend, force, monkeypatch):
    x, weight = gaussian_tokens(200, 16, dtype=torch.bfloat16), random_weight(200)
    given_arguments = varlen_arguments("mmr", x, weight, prefix_sums(100, 20, 80), prefix_sums(90, 9, 70), 169, 100)
    force("materialised")
    expected = ops.mmr_varlen.scores(*given_arguments)
    force("candidates")
    monkeypatch.setattr(launch, "WORKSPACE_LIMIT", 4 * 3 * 64**2)
    assert_equal(ops.mmr_varlen.scores(*given_arguments), expected)


def test_tiles_in_several_bands(backend, force):
    x = exact_tokens(64 * 9 + 5, 4, non_zeros=4)
    force("candidates")
    expected = ops.divprune.scores(x, 6)
    force("materialised")
    assert_equal(ops.divprune.scores(x, 6), expected)
    assert torch.equal(ops.divprune(x, 6), oracle("divprune", x, None, 6)[0])
