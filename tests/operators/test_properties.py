"""What holds on every input, as properties."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import python_ref
from tests.conftest import INTERPRETED
from tests.support.inputs import (
    DTYPES,
    METHODS,
    arguments,
    exact_tokens,
    gaussian_tokens,
    judged,
    ops,
    random_weight,
)
from tests.support.slow import always, slow_if_interpreted

pytestmark = pytest.mark.kernel


# The interpreter takes milliseconds a pick. The fixture only chooses the backend: it may serve many examples.
bounded = settings(
    max_examples=5 if INTERPRETED else 60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@st.composite
def items(draw, least_rows=1):
    """A method, tokens and weights: random ones, tied ones, with duplicates, with zero and non-finite rows."""
    count, depth = draw(st.integers(least_rows, 90)), draw(st.sampled_from([1, 2, 7, 16, 33, 64]))
    dtype, seed = draw(st.sampled_from(DTYPES)), draw(st.integers(0, 2**20))
    if draw(st.booleans()):
        x = gaussian_tokens(count, depth, dtype=dtype, seed=seed)
    else:
        depth = 16
        x = exact_tokens(count, depth, non_zeros=draw(st.sampled_from([1, 4, 16])), dtype=dtype, seed=seed)
    weight = random_weight(count, seed=seed)
    rows = st.lists(st.integers(0, count - 1), max_size=6)
    x[draw(rows)] = x[draw(st.integers(0, count - 1))].clone()
    x[draw(rows)] = 0
    x[draw(rows), draw(st.integers(0, depth - 1))] = draw(st.sampled_from([torch.nan, torch.inf, -torch.inf]))
    weight[draw(rows)] = draw(st.sampled_from([torch.nan, torch.inf, 0.5]))
    return draw(st.sampled_from(METHODS)), x, weight


def select(method, x, weight, k, lam=0.5):
    return getattr(ops, method).scores(*arguments(method, x, weight, k, lam))


@bounded
@given(items(), st.data())
def test_the_trace_is_right(backend, item, data):
    method, x, weight = item
    k = data.draw(st.integers(0, len(x)))
    judged(method, x, weight, k, data.draw(st.sampled_from([0.0, 0.25, 0.5, 0.9, 1.0])))


@slow_if_interpreted(always)
@bounded
@given(items(), st.data())
def test_the_first_j_of_k_picks_are_the_picks_for_j(backend, item, data):
    method, x, weight = item
    indices, scores = select(method, x, weight, len(x))
    j = data.draw(st.integers(0, len(x)))
    fewer, fewer_scores = select(method, x, weight, j)
    assert torch.equal(indices[:j], fewer)
    assert torch.equal(scores[:j], fewer_scores)
    assert sorted(indices.tolist()) == list(range(len(x)))


@slow_if_interpreted(always)
@bounded
@given(items(), st.data())
def test_an_item_does_not_depend_on_its_batch(backend, item, data):
    method, x, weight = item
    k = data.draw(st.integers(0, len(x)))
    others = gaussian_tokens(data.draw(st.integers(0, 4)), *x.shape, dtype=x.dtype)
    position = data.draw(st.integers(0, len(others)))
    batch = torch.cat([others[:position], x[None], others[position:]])
    weights = torch.cat([torch.ones(len(others), len(x))[:position], weight[None], torch.ones(len(others), len(x))])
    alone, alone_scores = select(method, x, weight, k)
    together, together_scores = select(method, batch, weights[: len(batch)], k)
    assert torch.equal(together[position], alone)
    assert torch.equal(together_scores[position], alone_scores)


@bounded
@given(items(), items(), items(), st.data())
def test_a_segment_is_the_same_packed_or_alone(backend, first, second, third, data):
    method = first[0]
    depth, dtype = first[1].shape[1], first[1].dtype
    alike = [item for item in (first, second, third) if item[1].shape[1] == depth and item[1].dtype == dtype]
    kept = [data.draw(st.integers(0, len(x))) for _, x, _ in alike]
    x, weight = torch.cat([x for _, x, _ in alike]), torch.cat([weight for _, _, weight in alike])
    starts = torch.tensor([0, *(len(x) for _, x, _ in alike)]).cumsum(0)
    cu_k = torch.tensor([0, *kept]).cumsum(0).int()
    rest = (starts.int(), cu_k, sum(kept), 90)
    packed = getattr(ops, f"{method}_varlen")(*((x, *rest) if method == "divprune" else (x, weight, *rest)))
    alone = [
        select(method, x, weight, k)[0] + start
        for (_, x, weight), k, start in zip(alike, kept, starts.tolist(), strict=False)
    ]
    assert torch.equal(packed, torch.cat(alone))


@slow_if_interpreted(always)
@bounded
@given(st.integers(2, 60), st.sampled_from(METHODS), st.sampled_from(DTYPES), st.integers(0, 2**20), st.randoms())
def test_a_permutation_of_distinct_rows_permutes_the_picks(backend, count, method, dtype, seed, random):
    x, weight = gaussian_tokens(count, 24, dtype=dtype, seed=seed), random_weight(count, seed=seed)
    # Mutual nearest neighbours tie exactly for DivPrune's first pick; the tie rule is not equivariant.
    indices, scores = select(method, x, weight, count)
    order = torch.tensor(random.sample(range(count), count))
    permuted, permuted_scores = select(method, x[order], weight[order], count)
    assert torch.equal(scores[:1], permuted_scores[:1])
    if order[permuted[0]] == indices[0]:
        # Once all of the DPP's gains are zero, the lowest index comes first.
        gaining = slice(int((scores > 0).sum()) if method == "dpp" else count)
        assert torch.equal(order[permuted][gaining], indices[gaining])
        assert torch.equal(permuted_scores, scores)
    else:
        # Both candidates won with the same score: a tie, which goes to the lowest index of either order.
        assert method == "divprune"
        similarity = python_ref.similarity.similarity_matrix(x, torch.ones(count, dtype=torch.bool)).fill_diagonal_(-2)
        nearest = similarity.amax(dim=-1)
        assert abs(nearest[indices[0]] - nearest[order[permuted[0]]]) < 1e-5


@slow_if_interpreted(always)
@bounded
@given(items(least_rows=20), st.integers(1, 3))
def test_the_result_depends_on_neither_the_run_nor_the_threads(backend, item, batch):
    method, x, weight = item
    x, weight = x.expand(batch, *x.shape), weight.expand(batch, *weight.shape)
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 1, 2, 3):
            torch.set_num_threads(threads)
            results.append(select(method, x, weight, x.shape[-2]))
    finally:
        torch.set_num_threads(before)
    for indices, scores in results[1:]:
        assert torch.equal(indices, results[0][0])
        assert torch.equal(scores, results[0][1])


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("batch", [1, 2, 3, 5])
def test_threads_that_share_rows_agree_with_one(threads, method, dtype, batch):
    x, weight = gaussian_tokens(batch, 400, 600, dtype=dtype), random_weight(batch, 400)
    threads(1)
    indices, scores = select(method, x, weight, 40)
    for count in (2, 3):
        threads(count)
        again, again_scores = select(method, x, weight, 40)
        assert torch.equal(again, indices)
        assert torch.equal(again_scores, scores)
