"""Ragged batches on the Triton backend whose prefix sums break the contract.

Nothing on the device can raise, so a broken segment's slots are -1, every slot is written, and the other segments are
selected as if alone; only where the workspace is at its limit, those that overlap may find no room. (The native backend
raises instead: test_varlen.py.)
"""

import contextlib

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.conftest import INTERPRETED
from tests.support.forms import METHODS_WITH_FORMS
from tests.support.inputs import arguments, gaussian_tokens, ops, random_weight
from tests.support.slow import slow_if_interpreted
from tests.support.varlen import HOSTILE, select

operators = pytest.importorskip(
    "tokenprune_kernels.backends.triton.operators", reason="the Triton backend needs triton"
)
runtime = pytest.importorskip("tokenprune_kernels.backends.triton.runtime", reason="the Triton backend needs triton")

pytestmark = pytest.mark.parametrize(
    "backend",
    [
        pytest.param(("triton", "cpu"), id="triton", marks=pytest.mark.interpret),
        pytest.param(("triton", "cuda"), id="gpu", marks=pytest.mark.gpu),
    ],
    indirect=True,
)

ROWS, TOTAL_K, MAX_SEQLEN = 12, 8, 6
INT_MIN, INT_MAX = -(2**31), 2**31 - 1
MORE_HOSTILE = [
    ([0, 5, 3, 8], [0, 1, 2, 3]),
    ([0, 6, 0, 6, 12], [0, 1, 2, 3, 4]),
    ([0, 13, 3, 8], [0, 1, 2, 3]),
    ([-3, 3, 8], [0, 1, 2]),
    ([INT_MAX, INT_MIN, 5], [0, 1, 2]),
    ([0, INT_MIN, INT_MAX, 4, 9], [0, 1, 2, 3, 4]),
    ([0, 5, 9], [INT_MIN, INT_MAX, 2]),
    ([0, 2, 4, 6], [0, INT_MAX, 1, 2]),
    ([0, 2, 4, 6], [0, INT_MIN, 1, 2]),
    ([0, 2, 4, 6], [0, 2, 1, 3]),
    ([0, 2, 4, 6], [0, 2, 1, 2]),
    ([0, 2, 4], [1, 2, 3]),
    ([1, 5, 9], [1, 2, 3]),
    ([0, 0, 5], [0, 3, 5]),
    ([0, 1, 2], [0, 4, 8]),
    ([0, 3, 6], [0, 8, 8]),
    ([0, 7], [0, 8]),
    ([-1, -1], [0, 0]),
    ([7], [9]),
]
CONTENTS = [*((starts, kept) for starts, kept, _ in HOSTILE), *MORE_HOSTILE]


def healthy_segments(starts, kept, rows, total_k, max_seqlen):
    """First row, length, first slot and k of each segment that keeps to the contract, its surplus of k taken off."""
    for s in range(len(starts) - 1):
        start, end, slot, slot_end = *starts[s : s + 2], *kept[s : s + 2]
        begins_at_zero = s > 0 or start == slot == 0
        # A slot below an earlier boundary belongs to an earlier segment, or to a broken one.
        own_slots = max(kept[: s + 1]) <= slot <= slot_end <= total_k
        if begins_at_zero and own_slots and 0 <= start <= end <= rows and end - start <= max_seqlen:
            yield start, end - start, slot, min(slot_end - slot, end - start)


def placed(segments, starts, rows, method, max_seqlen):
    """Those of the healthy segments that find room in the workspace: all, unless they overlap, at its limit."""
    longest = min(rows, max_seqlen)
    if longest == 0:
        return
    planned = operators.plan(method, (rows, 8), torch.float32, segments=len(starts) - 1, max_seqlen=max_seqlen)
    room = planned.capacity
    for segment in segments:
        room -= -(-segment[1] // 4)
        if room >= 0:
            yield segment
        else:
            assert starts != sorted(starts)


def check(method, x, weight, starts, kept, total_k, max_seqlen):
    sums = (torch.tensor(values, dtype=torch.int32) for values in (starts, kept))
    indices, scores = select(method, x, weight, *sums, total_k, max_seqlen)
    expected = torch.full((total_k,), -1)
    expected_scores = torch.full((total_k,), -torch.inf)
    healthy = healthy_segments(starts, kept, len(x), total_k, max_seqlen)
    for start, length, slot, k in placed(healthy, starts, len(x), method, max_seqlen):
        rows, slots = slice(start, start + length), slice(slot, slot + k)
        alone, expected_scores[slots] = getattr(ops, method).scores(*arguments(method, x[rows], weight[rows], k))
        expected[slots] = alone + start
    assert torch.equal(indices, expected)
    assert torch.equal(scores, expected_scores)


FORMS = [
    *(("materialised", method) for method in METHODS_WITH_FORMS),
    ("lazy_greedy", "divprune"),
    ("lazy_greedy at the limit", "idpruner"),
]


@pytest.fixture
def force():
    """Forces a form, with room for all segments at their longest unless it is at the limit."""
    with contextlib.ExitStack() as stack:

        def set_form(form):
            name, _, at_the_limit = form.partition(" ")
            limit = {"workspace_limit": 1} if at_the_limit else {}
            stack.enter_context(runtime.settings(form=name, **limit))

        yield set_form


@pytest.mark.parametrize(("form", "method"), FORMS)
@pytest.mark.parametrize(("starts", "kept"), CONTENTS)
@slow_if_interpreted(
    lambda form, method, starts, kept: (form, method) != FORMS[0] and (starts, kept) not in CONTENTS[::5]
)
def test_broken_segments_are_left_out(backend, force, form, method, starts, kept):
    force(form)
    check(method, gaussian_tokens(ROWS, 8), random_weight(ROWS), starts, kept, TOTAL_K, MAX_SEQLEN)


@pytest.mark.parametrize(("form", "method"), FORMS)
@pytest.mark.parametrize(("rows", "total_k", "max_seqlen"), [(0, 8, 6), (12, 8, 0), (12, 0, 6), (12, 1, 1), (1, 8, 6)])
def test_contents_beyond_small_capacities(backend, force, form, method, rows, total_k, max_seqlen):
    force(form)
    check(method, gaussian_tokens(rows, 8), random_weight(rows), [0, 1, 6], [0, 1, 4], total_k, max_seqlen)


@pytest.mark.parametrize("broken", [0, 127, 128])
@pytest.mark.parametrize("prefix_sum", ["cu_seqlens", "cu_k"])
@slow_if_interpreted(lambda broken: broken != 128)
def test_one_broken_boundary_among_more_than_are_planned_at_a_time(backend, broken, prefix_sum):
    starts, kept = [2 * s for s in range(131)], [s // 10 for s in range(131)]
    (starts if prefix_sum == "cu_seqlens" else kept)[broken] = INT_MIN
    check("divprune", gaussian_tokens(260, 8), random_weight(260), starts, kept, 13, 2)


def test_result_rows_of_an_earlier_block_of_segments_are_not_written_again(backend):
    starts, kept = [2 * s for s in range(131)], [s // 10 for s in range(131)]
    kept[128:] = 5, 6, 7  # segments are planned 128 at a time
    check("divprune", gaussian_tokens(260, 8), random_weight(260), starts, kept, 13, 2)


boundaries = st.one_of(st.integers(-1, ROWS + 1), st.sampled_from([INT_MIN, INT_MAX]))


@settings(
    max_examples=30 if INTERPRETED else 300,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(st.lists(boundaries, max_size=5), st.lists(st.integers(-1, TOTAL_K + 1), min_size=5, max_size=5), st.data())
def test_any_contents_at_all(backend, starts, kept, data):
    in_order = data.draw(st.sampled_from(["neither", "cu_seqlens", "cu_k"]))
    starts = [0, *(sorted(starts) if in_order == "cu_seqlens" else starts)]
    kept = [0, *(sorted(kept) if in_order == "cu_k" else kept)][: len(starts)]
    method = data.draw(st.sampled_from(METHODS_WITH_FORMS))
    check(method, gaussian_tokens(ROWS, 8), random_weight(ROWS), starts, kept, TOTAL_K, MAX_SEQLEN)


def test_a_segment_after_many_that_overlap_is_right(backend):
    x = gaussian_tokens(15, 8)
    starts = torch.tensor([0, 12] * 5 + [15], dtype=torch.int32)
    indices = ops.divprune_varlen(x, starts, torch.arange(11, dtype=torch.int32), 10, 12)
    first, last = ops.divprune(x[:12], 1).item(), 12 + ops.divprune(x[12:], 1).item()
    assert indices.tolist() == [first, -1] * 4 + [first, last]


@pytest.mark.parametrize("name", ["materialised", "lazy_greedy"])
def test_segments_that_overlap_beyond_a_workspace_at_its_limit_are_left_out(backend, name):
    x = gaussian_tokens(12, 8)
    starts = torch.tensor([0, 12] * 10, dtype=torch.int32)
    with runtime.settings(form=name, workspace_limit=1):
        indices = ops.divprune_varlen(x, starts, torch.arange(20, dtype=torch.int32), 19, 12)
        room = operators.plan("divprune", x.shape, x.dtype, segments=19, max_seqlen=12).capacity // 3
    assert 1 < room < 10
    first = ops.divprune(x, 1).item()
    assert indices.tolist() == [first if s % 2 == 0 and s < 2 * room else -1 for s in range(19)]
