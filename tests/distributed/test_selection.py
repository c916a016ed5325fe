"""Selections from rows of several processes: bit for bit those of one process that has all rows."""

import warnings

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.distributed.one_process import SELECTORS, check, even_cuts, expected_of, select
from tests.distributed.ranks import everywhere, joined
from tests.support.inputs import exact_tokens, gaussian_tokens, random_weight
from tokenprune_kernels import distributed
from tokenprune_kernels.distributed import first_pick, lazy_greedy, shard
from tokenprune_kernels.distributed.exchange import Exchange
from tokenprune_kernels.distributed.selection import Progress

DTYPES = (torch.float32, torch.bfloat16, torch.float16)


@pytest.fixture(scope="module", params=[1, 2, 3, 4])
def ranks(request):
    yield from joined(request.param)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("method", SELECTORS)
def test_gaussian_rows(ranks, method, dtype):
    x = gaussian_tokens(300, 70).to(dtype)
    check(ranks, method, x, random_weight(300), 60, 0.5, even_cuts(ranks, 300))


@pytest.mark.parametrize("lam", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("method", SELECTORS)
def test_ties_go_to_the_lowest_index_of_all_ranks(ranks, method, lam):
    x = exact_tokens(200, 16, non_zeros=4)
    weight = random_weight(200).mul(4).round()
    check(ranks, method, x, weight, 200, lam, even_cuts(ranks, 200))


@pytest.mark.parametrize("method", SELECTORS)
def test_rows_that_are_not_finite_come_last_and_influence_nothing(ranks, method):
    x, weight = gaussian_tokens(90, 8), random_weight(90)
    x[::5] = torch.nan
    x[1], x[2] = torch.inf, 0.0
    weight[7] = -torch.inf
    check(ranks, method, x, weight, 90, 0.5, even_cuts(ranks, 90))
    check(ranks, method, torch.full((7, 3), torch.nan), torch.zeros(7), 5, 0.5, even_cuts(ranks, 7))
    x[:] = torch.nan
    x[40] = 1.0
    check(ranks, method, x, torch.zeros(90), 3, 0.5, even_cuts(ranks, 90))


@pytest.mark.parametrize("method", SELECTORS)
def test_shards_may_be_empty(ranks, method):
    if ranks is None:
        pytest.skip("one process has all rows")
    for cuts in ([0] * (ranks.size - 1), [40] * (ranks.size - 1)):
        check(ranks, method, gaussian_tokens(40, 8), random_weight(40), 12, 0.5, cuts)
    check(ranks, method, torch.empty(0, 8), torch.empty(0), 0, 0.5, [0] * (ranks.size - 1))


def test_initial_rows_of_any_stride_make_no_noise():
    x, every_other = gaussian_tokens(20, 8), torch.arange(20)[::2]
    expected = distributed.divprune(x, 5, initial=every_other.clone()).indices
    before = torch.is_warn_always_enabled()
    torch.set_warn_always(True)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert torch.equal(distributed.divprune(x, 5, initial=every_other).indices, expected)
    finally:
        torch.set_warn_always(before)


@pytest.mark.parametrize("method", SELECTORS)
def test_initial_rows(ranks, method):
    x, weight = gaussian_tokens(90, 8), random_weight(90)
    x[::5] = torch.nan
    cuts = even_cuts(ranks, 90)
    for initial in (torch.arange(1, 90, 3), torch.tensor([0, 85]), torch.empty(0, dtype=torch.int64)):
        check(ranks, method, x, weight, 90 - len(initial), 0.5, cuts, initial)
    check(ranks, method, x, weight, 0, 0.5, cuts, torch.arange(90))


@pytest.mark.parametrize("method", SELECTORS)
def test_every_row_has_its_equal_on_another_rank(ranks, method):
    x = gaussian_tokens(40, 16).repeat(2, 1)
    check(ranks, method, x, torch.ones(80), 60, 0.5, even_cuts(ranks, 80))


def test_a_collective_serves_many_picks(ranks):
    if ranks is None:
        pytest.skip("one process makes no collectives")
    x, k = gaussian_tokens(2_000, 64), 400
    assert check(ranks, "divprune", x, torch.ones(2_000), k, 0.5, even_cuts(ranks, 2_000)) < 30


@pytest.mark.parametrize("method", SELECTORS)
def test_ties_take_no_collective_each(ranks, method):
    if ranks is None:
        pytest.skip("one process makes no collectives")
    one_row = gaussian_tokens(1, 8).expand(2_000, -1)
    for x in (exact_tokens(2_000, 16, non_zeros=4), exact_tokens(2_000, 64, non_zeros=1), one_row):
        assert check(ranks, method, x, torch.ones(2_000), 400, 0.5, even_cuts(ranks, 2_000)) < 25


def selects_while_flushing(method, x, weight):
    torch.set_flush_denormal(True)
    try:
        indices, scores, *_ = select(method, x, weight, 6, 1.0)
        return indices, scores, bool(torch.tensor(1e-40) == 0)
    finally:
        torch.set_flush_denormal(False)


@pytest.mark.parametrize("method", ["mmr", "idpruner"])
def test_subnormal_weights_count_whatever_the_caller_flushes(ranks, method):
    x, weight = gaussian_tokens(30, 16), torch.arange(30) * 1e-41
    size = 1 if ranks is None else ranks.size
    expected = expected_of(method, x, weight, 6, 1.0)
    given = [method] * size, [*x.tensor_split(size)], [*weight.tensor_split(size)]
    for indices, scores, flushes in everywhere(ranks, selects_while_flushing, *given):
        assert torch.equal(indices, expected[0])
        assert torch.equal(scores, expected[1])
        assert flushes  # as before


def selects_with_other_defaults(dtype, device, method, x, weight, initial):
    """The picks, where tensors are of this dtype and on this device unless somebody says otherwise."""
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            found = select(method, x, weight, 20, 0.5, initial)
    finally:
        torch.set_default_dtype(torch.float32)
    return found[:2]


@pytest.mark.parametrize("method", SELECTORS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_default_dtype_and_device_change_nothing(ranks, method, dtype):
    size = 1 if ranks is None else ranks.size
    x, weight = gaussian_tokens(60, 16), random_weight(60)
    x[3] = torch.nan
    for initial in (None, torch.tensor([5, 3])):
        expected = expected_of(method, x, weight, 20, 0.5, initial)
        given = [[dtype] * size, ["meta"] * size, [method] * size, [*x.tensor_split(size)]]
        given += [[*weight.tensor_split(size)], [initial] * size]
        for found in everywhere(ranks, selects_with_other_defaults, *given):
            assert torch.equal(found[0], expected[0])
            assert torch.equal(found[1], expected[1])


def test_near_rows_are_all_on_another_rank(ranks):
    """Of two ranks, all rows have to be proposed."""
    for count in (20, 150):
        x = gaussian_tokens(count, 16)
        x = torch.cat([x, x + 1e-3 * gaussian_tokens(count, 16, seed=1)])
        taken = check(ranks, "divprune", x, torch.ones(2 * count), 10, 0.5, even_cuts(ranks, 2 * count))
        assert taken < 30


@pytest.mark.parametrize(("first", "most"), [(1, 1), (2, 3), (16, 1024)])
def test_so_many_proposals_at_a_time_change_nothing(monkeypatch, first, most):
    monkeypatch.setattr(first_pick, "_OUTLIERS", first)
    monkeypatch.setattr(first_pick, "_MOST_PROPOSALS", most)
    x = gaussian_tokens(60, 16)
    for tokens in (torch.cat([x, x + 1e-3 * gaussian_tokens(60, 16, seed=1)]), x.repeat(2, 1)):
        expected = torch.ops.tokenprune.divprune.scores(tokens, 1)
        for files in (2, 3, 50):
            progress = Progress("divprune", tokens.tensor_split(files), None, 1, 0.5, Exchange(None), [120])
            assert list(progress.rounds()) == []
            assert torch.equal(progress.indices(), expected[0])


@pytest.mark.parametrize("lam", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("method", ["mmr", "idpruner"])
def test_a_score_of_zero_has_no_sign(ranks, method, lam):
    x = exact_tokens(40, 16, non_zeros=1)
    zeros = torch.tensor([-0.0, 0.0, -0.0, -1.0, 1.0]).repeat(8)
    for weight in (zeros, zeros.flip(0), -0.0 * zeros):
        check(ranks, method, x, weight, 30, lam, even_cuts(ranks, 40))
        assert not (expected_of(method, x, weight, 30, lam)[1].view(torch.int32) == -(1 << 31)).any()


@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_split_of_any_rows(ranks, data):
    count = data.draw(st.integers(1, 60), "N")
    values = data.draw(st.sampled_from(["gaussian", "few values", "one row again and again"]), "values")
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 1_000), "seed"))
    x = torch.randn(count, data.draw(st.integers(1, 9), "D"), generator=generator)
    if values != "gaussian":
        x = x.sign() if values == "few values" else x[:1].expand(count, -1)
    weight = torch.randint(-2, 3, (count,), generator=generator).float()
    k = data.draw(st.integers(0, count), "k")
    lam = data.draw(st.sampled_from([0.0, 0.5, 1.0]), "lam")
    pieces = 1 if ranks is None else ranks.size
    cuts = data.draw(st.lists(st.integers(0, count), min_size=pieces - 1, max_size=pieces - 1), "cuts")
    method = data.draw(st.sampled_from(SELECTORS), "method")
    initial = torch.tensor(
        data.draw(st.lists(st.integers(0, count - 1), max_size=count - k, unique=True), "initial"), dtype=torch.int64
    )
    check(ranks, method, x.to(data.draw(st.sampled_from(DTYPES), "dtype")), weight, k, lam, cuts, initial)


@pytest.mark.parametrize("method", SELECTORS)
@pytest.mark.parametrize("least", [1, 8])
@pytest.mark.parametrize("largest", [1, 2, 700])
def test_the_size_of_the_frontier_changes_nothing(monkeypatch, method, least, largest):
    monkeypatch.setattr(lazy_greedy, "_FRONTIER", least)
    monkeypatch.setattr(lazy_greedy, "_LARGEST_FRONTIER", largest)
    for x in (gaussian_tokens(700, 16), exact_tokens(700, 16, non_zeros=4)):
        check(None, method, x, random_weight(700).mul(4).round(), 350, 0.5, [])


def test_the_frontier_grows_while_picks_are_few():
    rows = shard.Shard("divprune", [gaussian_tokens(40_000, 4)], None, 0)
    greedy = lazy_greedy.LazyGreedy(rows, Exchange(None), lambda maximum, _: 1.0 - maximum, rows.norms, 1_000)
    sizes = []
    for picks in (1, 1, 1, 100, 250, 250, 250):  # of 250 candidates
        greedy._fit_frontier(picks)
        sizes.append(greedy._frontier)
    assert sizes == [4_000, 5_000, 5_000, 5_000, 2_500, 2_000, 2_000]


@pytest.mark.parametrize(("files", "proposals"), [(1, 1), (2, 16)])
def test_one_file_proposes_its_top_outlier_alone(monkeypatch, files, proposals):
    asked_for = []
    outliers = shard.Shard.outliers
    monkeypatch.setattr(shard.Shard, "outliers", lambda own, count: asked_for.append(count) or outliers(own, count))
    parts = (*gaussian_tokens(700, 16).split(700 // files), torch.empty(0, 16))
    progress = Progress("divprune", parts, None, 1, 0.5, Exchange(None), [700])
    assert list(progress.rounds()) == []
    assert asked_for == [proposals]


@pytest.mark.parametrize("method", SELECTORS)
@pytest.mark.parametrize("most", [1, 7, 200])
def test_so_many_elements_at_a_time_change_nothing(monkeypatch, method, most):
    monkeypatch.setattr(shard, "_ELEMENTS_AT_A_TIME", most)
    x = exact_tokens(60, 16, non_zeros=4)
    check(None, method, x, random_weight(60), 30, 0.5, [])
