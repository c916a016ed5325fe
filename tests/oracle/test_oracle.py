"""The oracle against a definition written a second time, in exact rational arithmetic and in Python floats."""

import itertools
import math
import struct
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import python_ref
from python_ref.similarity import finite_rows, similarity_matrix
from tests.support.inputs import gaussian_tokens

WEIGHTED = {"mmr": python_ref.mmr, "idpruner": python_ref.idpruner}
LAMS = (0.0, 0.25, 0.5, 1.0)

# Rows of four entries whose norm is 0, 1 or 2: every similarity is a multiple of 1/4, and most of them are tied.
PATTERNS = [row for row in itertools.product((-1, 0, 1), repeat=4) if sum(map(abs, row)) in (0, 1, 4)]
# Quarters keep lam * weight exact, and few values keep them tied.
QUARTERS = [Fraction(n, 4) for n in range(-2, 5)]

INFINITY = math.inf
NAN = math.nan


def exact_similarity(a, b):
    dot = sum(p * q for p, q in zip(a, b, strict=True))
    return Fraction(dot, math.isqrt(sum(p * p for p in a) * sum(q * q for q in b)) or 1)


def float_similarity(a, b):
    def norm(row):
        return max(math.sqrt(math.fsum(p * p for p in row)), 1e-12)

    return math.fsum(p * q for p, q in zip(a, b, strict=True)) / (norm(a) * norm(b))


def definition(rows, k, relevance=None, lam=None, similarity=exact_similarity):
    """Picks, the scores they won with, and the smallest lead over a runner-up."""
    picks, won, lead = [], [], INFINITY
    for _ in range(k):
        scores = {}
        for i in set(range(len(rows))) - set(picks):
            if relevance is not None and not picks:
                scores[i] = relevance[i]
                continue
            rivals = picks or [j for j in range(len(rows)) if j != i]
            nearest = max((similarity(rows[i], rows[j]) for j in rivals), default=-INFINITY)
            scores[i] = 1 - nearest if relevance is None else lam * relevance[i] - (1 - lam) * nearest
        pick = max(scores, key=lambda i: (scores[i], -i))
        lead = min([lead, *(scores[pick] - scores[i] for i in scores if i != pick)])
        picks.append(pick)
        won.append(scores[pick])
    return picks, won, lead


def single(value):
    return struct.unpack("f", struct.pack("f", value))[0]


def scaled(importance):
    """IDPruner's relevance, rounded to float32 after every operation by way of a float64 that holds it exactly."""
    smallest, largest = min(importance), max(importance)
    extent = single(largest - smallest)
    if math.isinf(extent):
        return [0.0] * len(importance)
    return [single(single(w - smallest) / single(extent + single(1e-6))) for w in importance]


def assert_picks(result, picks, scores):
    assert result[0].dtype == torch.int64
    assert result[0].tolist() == picks
    assert result[1].tolist() == [float(score) for score in scores]


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_divprune_is_the_definition_on_every_input_of_few_rows(count):
    patterns = [(0, 0), (1, 0), (-1, 0), (0, 1), (0, -1)]
    for rows in itertools.product(patterns, repeat=count):
        picks, won, _ = definition(rows, count)
        assert_picks(python_ref.divprune(torch.tensor(rows, dtype=torch.float32), count), picks, won)


@settings(deadline=None, max_examples=100)
@given(st.lists(st.sampled_from(PATTERNS), min_size=1, max_size=9))
def test_divprune_is_the_definition_on_tied_inputs(rows):
    picks, won, _ = definition(rows, len(rows))
    assert_picks(python_ref.divprune(torch.tensor(rows, dtype=torch.bfloat16), len(rows)), picks, won)


@pytest.mark.parametrize("lam", LAMS)
@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.sampled_from(PATTERNS), st.sampled_from(QUARTERS)), min_size=1, max_size=8))
def test_mmr_is_the_definition_on_tied_inputs(lam, tokens):
    rows, relevance = zip(*tokens, strict=True)
    picks, won, _ = definition(rows, len(rows), relevance, Fraction(lam))
    x = torch.tensor(rows, dtype=torch.float16)
    assert_picks(python_ref.mmr(x, torch.tensor([float(r) for r in relevance]), len(rows), lam), picks, won)


@pytest.mark.parametrize("lam", LAMS)
@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.sampled_from(PATTERNS), st.sampled_from(QUARTERS)), min_size=1, max_size=8))
def test_idpruner_is_the_definition_on_tied_inputs(lam, tokens):
    rows, importance = zip(*tokens, strict=True)
    importance = [float(w) for w in importance]
    picks, won, _ = definition(rows, len(rows), [Fraction(r) for r in scaled(importance)], Fraction(lam))
    x = torch.tensor(rows, dtype=torch.float32)
    assert_picks(python_ref.idpruner(x, torch.tensor(importance), len(rows), lam), picks, won)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("seed", range(4))
def test_general_inputs_follow_the_definition(dtype, seed):
    x = gaussian_tokens(9, 5, seed=seed).to(dtype)
    weight = gaussian_tokens(9, seed=seed + 100).abs()
    for name, relevance in (("divprune", None), ("mmr", weight.tolist()), ("idpruner", scaled(weight.tolist()))):
        picks, won, lead = definition(x.tolist(), 9, relevance, 0.3, float_similarity)
        indices, scores = python_ref.divprune(x, 9) if relevance is None else WEIGHTED[name](x, weight, 9, 0.3)
        torch.testing.assert_close(scores, torch.tensor(won, dtype=torch.float64), rtol=0, atol=1e-12)
        # The first pick of DivPrune is tied whenever the best row and its nearest neighbour have each other.
        assert lead > 1e-9 or name == "divprune"
        assert indices.tolist() == picks


def test_norms_below_the_floor_count_as_the_floor():
    x = torch.tensor([[1.0, 0.0], [5e-13, 0.0], [0.0, 3.0], [0.0, -2e-13]])
    picks, won, _ = definition(x.tolist(), 4, similarity=float_similarity)
    indices, scores = python_ref.divprune(x, 4)
    assert indices.tolist() == picks
    torch.testing.assert_close(scores, torch.tensor(won, dtype=torch.float64), rtol=1e-12, atol=0)
    # Without the floor the second row has distance 0 to the first, with it 1/2.
    assert python_ref.mmr(x[:2], torch.tensor([1.0, 0.0]), 2, 0.0)[1][1] == pytest.approx(-0.5, rel=1e-6)


def test_scaling_a_row_changes_nothing():
    x = gaussian_tokens(30, 6)
    factors = 2.0 ** torch.arange(-15, 15)
    plain, stretched = python_ref.divprune(x, 30), python_ref.divprune(x * factors.unsqueeze(-1), 30)
    assert torch.equal(plain[0], stretched[0])
    torch.testing.assert_close(plain[1], stretched[1], rtol=0, atol=1e-14)


@pytest.mark.parametrize("depth", [3, 31, 100, 1024, 4097])
@pytest.mark.parametrize("seed", range(5))
def test_two_rows_are_tied_however_their_distance_rounds(depth, seed):
    x = gaussian_tokens(2, depth, seed=seed)
    indices, scores = python_ref.divprune(x, 2)
    assert indices.tolist() == [0, 1]
    assert scores[0] == scores[1]


@pytest.mark.parametrize(("count", "depth"), [(3, 31), (17, 100), (70, 513)])
def test_similarity_is_symmetric_and_equal_for_equal_rows(count, depth):
    x, copies = gaussian_tokens(count, depth), torch.arange(2 * count + 5) * 7 % count
    similarity = similarity_matrix(x[copies], torch.ones(len(copies), dtype=torch.bool))
    assert torch.equal(similarity, similarity.mT)
    first = torch.stack([(copies == copy).nonzero()[0, 0] for copy in copies])
    assert torch.equal(similarity, similarity[first][:, first])


@pytest.mark.parametrize(("count", "depth"), [(3, 31), (17, 100), (70, 513)])
@pytest.mark.parametrize("name", ["divprune", "mmr", "idpruner"])
def test_duplicates_come_in_index_order(name, count, depth):
    x, copies = gaussian_tokens(count, depth), torch.arange(2 * count + 5) * 7 % count
    weight = gaussian_tokens(count, seed=1)[copies]
    indices, _ = (
        python_ref.divprune(x[copies], len(copies))
        if name == "divprune"
        else WEIGHTED[name](x[copies], weight, len(copies))
    )
    for row in range(count):
        of_row = [i for i in indices.tolist() if copies[i] == row]
        assert of_row == sorted(of_row)


def test_identical_rows_are_taken_in_index_order():
    x = gaussian_tokens(1, 33).expand(20, 33)
    assert python_ref.divprune(x, 20)[0].tolist() == list(range(20))
    assert python_ref.mmr(x, torch.full((20,), 0.7), 20)[0].tolist() == list(range(20))


def test_negative_zero_ties_with_zero():
    x = torch.eye(4)
    relevance = torch.tensor([-0.0, 0.0, -0.0, 0.0])
    assert python_ref.mmr(x, relevance, 4, 1.0)[0].tolist() == [0, 1, 2, 3]
    assert python_ref.divprune(torch.tensor([[-0.0, 1.0], [0.0, 1.0]]), 2)[0].tolist() == [0, 1]


def test_zero_rows_are_at_distance_one_from_everything():
    x = torch.tensor([[1.0, 0.0], [0.0, 0.0], [1.0, 0.0], [0.0, 0.0]])
    assert_picks(python_ref.divprune(x, 4), [1, 0, 3, 2], [1, 1, 1, 0])


def test_the_first_picks_are_the_picks_of_a_smaller_budget():
    x, weight = gaussian_tokens(40, 7).bfloat16(), gaussian_tokens(40, seed=1)
    full = {"divprune": python_ref.divprune(x, 40), **{n: select(x, weight, 40) for n, select in WEIGHTED.items()}}
    for k in (0, 1, 2, 13, 39):
        for name, (indices, scores) in full.items():
            nested = python_ref.divprune(x, k) if name == "divprune" else WEIGHTED[name](x, weight, k)
            assert torch.equal(nested[0], indices[:k])
            assert torch.equal(nested[1], scores[:k])


@pytest.mark.parametrize("count", [0, 1, 2, 5])
def test_no_picks_leave_empty_results(count):
    x, weight = torch.ones(count, 3), torch.ones(count)
    for indices, scores in (python_ref.divprune(x, 0), python_ref.mmr(x, weight, 0), python_ref.idpruner(x, weight, 0)):
        assert indices.shape == scores.shape == (0,)
        assert indices.dtype == torch.int64


def test_a_single_row_is_picked_with_the_score_of_no_neighbour():
    x = torch.tensor([[3.0, 4.0]])
    assert_picks(python_ref.divprune(x, 1), [0], [INFINITY])
    assert_picks(python_ref.mmr(x, torch.tensor([-0.25]), 1), [0], [-0.25])
    assert_picks(python_ref.idpruner(x, torch.tensor([-0.25]), 1), [0], [0])


def test_two_rows():
    x = torch.tensor([[1.0, 0.0], [1.0, 1.0]])
    assert python_ref.divprune(x, 2)[0].tolist() == [0, 1]
    assert python_ref.divprune(x, 2)[1].tolist() == pytest.approx([1 - math.sqrt(0.5)] * 2, abs=1e-15)
    indices, scores = python_ref.mmr(x, torch.tensor([1.0, 2.0]), 2, 0.25)
    assert indices.tolist() == [1, 0]
    assert scores.tolist() == pytest.approx([2.0, 0.25 - 0.75 * math.sqrt(0.5)], abs=1e-15)


@pytest.mark.parametrize("k", [-1, 4])
def test_budgets_beyond_the_rows_are_refused(k):
    with pytest.raises(ValueError, match=f"expected k to be in \\[0, N\\] with N = 3, got {k}"):
        python_ref.divprune(torch.eye(3), k)


@pytest.mark.parametrize("leading", [(), (3,), (2, 3), (2, 1, 3), (0,), (2, 0), (0, 3, 2)])
def test_items_of_a_batch_are_independent(leading):
    x, weight = gaussian_tokens(*leading, 6, 4), gaussian_tokens(*leading, 6, seed=1)
    results = {
        "divprune": python_ref.divprune(x, 3),
        "mmr": python_ref.mmr(x, weight, 3, 0.3),
        "idpruner": python_ref.idpruner(x, weight, 3, 0.3),
    }
    for name, (indices, scores) in results.items():
        assert indices.shape == scores.shape == (*leading, 3)
        for item in itertools.product(*map(range, leading)):
            alone = (
                python_ref.divprune(x[item].clone(), 3)
                if name == "divprune"
                else WEIGHTED[name](x[item].clone(), weight[item].clone(), 3, 0.3)
            )
            assert torch.equal(indices[item], alone[0])
            assert torch.equal(scores[item], alone[1])


def test_strides_do_not_matter():
    x = gaussian_tokens(4, 9, 2).transpose(0, 1)
    assert torch.equal(python_ref.divprune(x, 4)[0], python_ref.divprune(x.contiguous(), 4)[0])


# Four entries each, so that the last ones overflow in the sum of squares only.
POISONED_ROWS = [
    [NAN, 0.0, 0.0, 0.0],
    [0.0, INFINITY, 0.0, 0.0],
    [1.0, 1.0, -INFINITY, 1.0],
    [2e19, 0.0, 0.0, 0.0],
    [1.2e19, 1.2e19, -1.2e19, 1.2e19],
]
POISONED_WEIGHTS = [NAN, INFINITY, -INFINITY, 1e300, -3.5e38]


@settings(deadline=None, max_examples=100)
@given(
    st.lists(st.tuples(st.sampled_from(PATTERNS), st.sampled_from(QUARTERS)), max_size=6),
    st.lists(st.tuples(st.integers(0, 6), st.sampled_from(POISONED_ROWS)), max_size=4),
)
def test_non_finite_rows_come_last_and_influence_nothing(tokens, poisons):
    rows, weight = [list(row) for row, _ in tokens], [float(w) for _, w in tokens]
    clean = list(range(len(rows)))
    for position, row in poisons:
        position = min(position, len(rows))
        rows.insert(position, row)
        # The largest importance, so that scaling by it would show.
        weight.insert(position, 100.0)
        clean = [i + (i >= position) for i in clean]
    x, weight = torch.tensor(rows).reshape(-1, 4), torch.tensor(weight)
    assert_last(clean, x, weight)


@settings(deadline=None, max_examples=100)
@given(
    st.lists(st.tuples(st.sampled_from(PATTERNS), st.sampled_from(QUARTERS)), max_size=6),
    st.lists(st.tuples(st.integers(0, 6), st.sampled_from(POISONED_WEIGHTS)), max_size=4),
)
def test_rows_of_non_finite_weight_come_last_and_influence_nothing(tokens, poisons):
    rows, weight = [list(row) for row, _ in tokens], [float(w) for _, w in tokens]
    clean = list(range(len(rows)))
    for position, poison in poisons:
        position = min(position, len(rows))
        rows.insert(position, [1, 0, 0, 0])
        weight.insert(position, poison)
        clean = [i + (i >= position) for i in clean]
    x, weight = torch.tensor(rows, dtype=torch.float32).reshape(-1, 4), torch.tensor(weight, dtype=torch.float64)
    assert_last(clean, x, weight, methods=("mmr", "idpruner"))


def assert_last(clean, x, weight, methods=("divprune", "mmr", "idpruner")):
    """All rows but the clean ones are picked last, and the clean ones as if alone."""
    last = [i for i in range(len(x)) if i not in clean]
    for name in methods:
        if name == "divprune":
            result, alone = python_ref.divprune(x, len(x)), python_ref.divprune(x[clean], len(clean))
        else:
            result = WEIGHTED[name](x, weight, len(x))
            alone = WEIGHTED[name](x[clean], weight[clean], len(clean))
        picks = [clean[i] for i in alone[0].tolist()] + last
        assert_picks(result, picks, alone[1].tolist() + [-INFINITY] * len(last))


def test_non_finite_rows_are_similar_to_nothing():
    x = torch.tensor([[1.0, 1.0], [NAN, 1.0], [INFINITY, 1.0], [3e38, 3e38], [2.0, 2.0]])
    similarity = similarity_matrix(x, finite_rows(x))
    expected = torch.zeros(5, 5, dtype=torch.float64)
    expected[::4, ::4] = 1.0
    torch.testing.assert_close(similarity, expected, rtol=0, atol=1e-15)


def test_finite_rows_up_to_the_largest_sum_of_squares():
    x = torch.tensor([[1.8e19, 0.0], [1.8e19, 1.8e19], [1.3e19, 1.3e19], [1.3e19, 1.4e19]])
    assert finite_rows(x).tolist() == [True, False, True, False]


def test_weights_are_finite_as_float32():
    weight = torch.tensor([3.4e38, 3.5e38, -3.5e38, 1e-300, NAN], dtype=torch.float64)
    assert finite_rows(torch.ones(5, 2), weight).tolist() == [True, False, False, True, False]


def test_the_only_finite_row_comes_first():
    x = torch.tensor([[NAN, 0.0], [INFINITY, 1.0], [0.0, 2.0], [NAN, NAN]])
    assert_picks(python_ref.divprune(x, 4), [2, 0, 1, 3], [INFINITY, -INFINITY, -INFINITY, -INFINITY])
    relevance = torch.tensor([9.0, 9.0, -3.0, 9.0])
    assert_picks(python_ref.mmr(x, relevance, 3), [2, 0, 1], [-3, -INFINITY, -INFINITY])


def test_nothing_but_non_finite_rows_comes_in_index_order():
    x = torch.full((5, 2), NAN)
    for indices, scores in (python_ref.divprune(x, 3), python_ref.mmr(x, torch.ones(5), 3)):
        assert indices.tolist() == [0, 1, 2]
        assert scores.tolist() == [-INFINITY] * 3


@settings(deadline=None, max_examples=200)
@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1, max_size=6))
def test_importance_is_scaled_with_every_operation_rounded(importance):
    relevance = python_ref.relevance_of(torch.tensor(importance), torch.ones(len(importance), dtype=torch.bool))
    assert relevance.dtype == torch.float32
    assert relevance.tolist() == scaled(importance)


@pytest.mark.parametrize("select", WEIGHTED.values(), ids=WEIGHTED)
def test_weights_become_float32_on_entry(select):
    # The last two differ by less than float32 resolves, so that their tie goes to the lower index.
    weight = torch.tensor([0.0, 1.0, 1.0 + 1e-12], dtype=torch.float64)
    assert select(torch.eye(3), weight, 3, 1.0)[0].tolist() == [1, 2, 0]


@pytest.mark.parametrize("importance", [[7.5] * 4, [-3e38, 3e38, 0.0, 1e38]])
def test_importance_without_a_range_counts_for_nothing(importance):
    x = gaussian_tokens(4, 3)
    result = python_ref.idpruner(x, torch.tensor(importance), 4)
    zero = python_ref.mmr(x, torch.zeros(4), 4)
    assert_picks(result, zero[0].tolist(), zero[1].tolist())


def test_importance_is_scaled_over_the_finite_rows_only():
    x = torch.cat([torch.eye(3), torch.tensor([[NAN, 0.0, 0.0], [0.0, 1.0, 1.0]])])
    importance = torch.tensor([1.0, 3.0, 2.0, 1000.0, -INFINITY])
    relevance = python_ref.relevance_of(importance, finite_rows(x, importance))
    assert relevance.tolist() == [*scaled([1.0, 3.0, 2.0]), 0.0, 0.0]
    assert python_ref.idpruner(x, importance, 2, 1.0)[1].tolist() == scaled([3.0, 1.0, 2.0])[::2]
