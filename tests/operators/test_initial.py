"""Initial rows: a selection goes on from rows that count as selected. On the native backend."""

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings

import tokenprune_kernels
from tests.support.block_sizes import COUNT, scored, with_broken_rows
from tests.support.inputs import (
    DTYPES,
    LAYOUTS,
    WITH_INITIAL,
    arguments,
    clustered_tokens,
    exact_tokens,
    exact_weight,
    gaussian_tokens,
    generator,
    judged,
    ops,
    oracle,
    random_weight,
    with_layout,
)

pytestmark = pytest.mark.kernel
methods = pytest.mark.parametrize("method", WITH_INITIAL)


def goes_on_everywhere(method, x, weight, prefixes, lam=0.5):
    """Every prefix of the picks, as initial rows, is followed by the other picks, with the same scores."""
    count = x.shape[-2]
    indices, scores = scored(method, x, weight, count, lam)
    for length in prefixes:
        more = scored(method, x, weight, count - length, lam, initial=indices[..., :length])
        assert torch.equal(more[0], indices[..., length:])
        assert torch.equal(more[1], scores[..., length:])


def some_rows(count, how_many, seed=0):
    return torch.randperm(count, generator=generator(seed))[:how_many]


@methods
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("lam", [0.0, 0.3, 1.0])
def test_every_prefix_goes_on_as_the_whole_selection(method, dtype, lam):
    goes_on_everywhere(method, with_broken_rows().to(dtype), random_weight(COUNT), range(COUNT + 1), lam)


@methods
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_prefix_of_tied_rows(method, dtype):
    x, weight = exact_tokens(70, 32, non_zeros=16, dtype=dtype), exact_weight(method, 70)
    goes_on_everywhere(method, x, weight, range(71))
    goes_on_everywhere(method, torch.ones(70, 4, dtype=dtype), torch.zeros(70), range(71))


@methods
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_long_rows_which_have_signatures(method, dtype):
    x = clustered_tokens(400, 1_600, clusters=40, dtype=dtype)
    goes_on_everywhere(method, x, random_weight(400), [1, 2, 99, 250, 399], lam=0.2)


@methods
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("how_many", [1, 2, 40, 149])
def test_any_rows_may_be_initial(method, dtype, how_many):
    x, weight = clustered_tokens(COUNT, 24, clusters=9, dtype=dtype), random_weight(COUNT)
    for seed in range(3):
        initial = some_rows(COUNT, how_many, seed)
        indices, _ = judged(method, x, weight, min(60, COUNT - how_many), 0.3, initial)
        assert not set(indices.tolist()) & set(initial.tolist())


@methods
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_ties_after_any_rows_go_to_the_lowest_index(method, dtype):
    x, weight = exact_tokens(70, 32, non_zeros=16, dtype=dtype), exact_weight(method, 70)
    for seed in range(5):
        initial = some_rows(70, 10 * seed + 1, seed)
        given = arguments(method, x, weight, 70 - len(initial), initial=initial)
        assert torch.equal(getattr(ops, method)(*given), oracle(method, x, weight, 70 - len(initial), 0.5, initial)[0])


@methods
def test_broken_rows_may_be_initial_and_influence_nothing(method):
    x, weight = with_broken_rows(), random_weight(COUNT)
    x[11, 3] = torch.inf
    weight[3] = torch.nan
    broken = torch.tensor([11, 3, 143])
    indices, scores = scored(method, x, weight, COUNT)
    left = ~torch.isin(indices, broken)
    alone = scored(method, x, weight, COUNT - 3, initial=broken)
    assert torch.equal(alone[0], indices[left])  # the first pick is that of a selection without initial rows
    assert torch.equal(alone[1], scores[left])
    indices, _ = judged(method, x, weight, COUNT - 5, 0.5, torch.cat([broken, torch.tensor([40, 0])]))
    assert sorted([*indices.tolist(), 40, 0, *broken.tolist()]) == list(range(COUNT))


@methods
def test_the_order_of_initial_rows_changes_nothing(method):
    x, weight, initial = with_broken_rows(), random_weight(COUNT), some_rows(COUNT, 50)
    first, second = (scored(method, x, weight, 60, 0.5, rows) for rows in (initial, initial.flip(0)))
    assert torch.equal(first[0], second[0])
    assert torch.equal(first[1], second[1])


@methods
def test_no_initial_rows_are_as_none(method):
    x, weight = gaussian_tokens(2, 30, 8), random_weight(2, 30)
    expected = getattr(ops, method)(*arguments(method, x, weight, 9))
    for none in (torch.empty(2, 0, dtype=torch.int64), torch.empty(2, 5, dtype=torch.int64)[:, 5:]):
        assert torch.equal(getattr(ops, method)(*arguments(method, x, weight, 9, initial=none)), expected)


@methods
def test_nothing_is_left_to_pick(method):
    x, weight, everything = gaussian_tokens(2, 6, 8), random_weight(2, 6), torch.arange(6).expand(2, 6)
    assert getattr(ops, method)(*arguments(method, x, weight, 0, initial=everything)).shape == (2, 0)
    empty = x[:, :0], weight[:, :0], 0, 0.5, everything[:, :0]
    assert getattr(ops, method)(*arguments(method, *empty)).shape == (2, 0)
    no_items = x[:0], weight[:0], 2, 0.5, everything[:0, :3]
    assert getattr(ops, method)(*arguments(method, *no_items)).shape == (0, 2)


@methods
@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_items_of_a_batch_have_rows_of_their_own(method, layout):
    x = with_layout(gaussian_tokens(2, 3, 20, 8), layout)
    leading, weight = x.shape[:-2], random_weight(*x.shape[:-1])
    initial = torch.rand(*leading, 20, generator=generator(1)).argsort(dim=-1)[..., :5]
    together = getattr(ops, method)(*arguments(method, x, weight, 7, initial=initial))
    assert together.shape == (*leading, 7)
    for item in torch.ones(leading).nonzero().tolist():
        at = tuple(item)
        alone = getattr(ops, method)(*arguments(method, x[at], weight[at], 7, initial=initial[at].clone()))
        assert torch.equal(together[at], alone)


@methods
def test_the_function_is_the_operator(method):
    x, weight, initial = gaussian_tokens(2, 20, 8), random_weight(2, 20), torch.tensor([[3, 4], [19, 0]])
    expected = getattr(torch.ops.tokenprune, method)(*arguments(method, x, weight, 7, initial=initial))
    given = arguments(method, x, weight, 7)[: 2 if method == "divprune" else 3]
    function = getattr(tokenprune_kernels, method)
    assert torch.equal(function(*given, initial=initial), expected)
    assert torch.equal(function(*given, initial=initial, sorted=True), expected.sort().values)


@methods
@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_any_selection_goes_on(method, data):
    count = data.draw(st.integers(2, 40))
    x = exact_tokens(count, 8, non_zeros=4, seed=data.draw(st.integers(0, 99)))
    weight = exact_weight(method, count, seed=data.draw(st.integers(0, 99)))
    x[data.draw(st.lists(st.integers(0, count - 1), max_size=5))] = torch.nan
    initial = torch.tensor(data.draw(st.lists(st.integers(0, count - 1), unique=True)), dtype=torch.int64)
    k = data.draw(st.integers(0, count - len(initial)))
    given = arguments(method, x, weight, k, initial=initial)
    indices, scores = getattr(ops, method).scores(*given)
    expected, expected_scores = oracle(method, x, weight, k, 0.5, initial)
    assert torch.equal(indices, expected)
    assert torch.equal(scores, expected_scores.float())
