"""The model of an H200 against the times it was made from, and against itself."""

import pytest

roofline = pytest.importorskip("bench.roofline", reason="the benchmarks are only in the source tree")

DEPTH = 4_096


@pytest.mark.parametrize(
    ("count", "symmetric", "least", "most"),
    [(576, False, 4, 10), (2_880, True, 52, 75), (16_384, True, 1_650, 1_750)],
)
def test_the_similarity_pass(count, symmetric, least, most):
    predicted = roofline.similarity_time(count, DEPTH, symmetric=symmetric)
    assert least <= predicted <= most
    assert roofline.similarity_bound(count, DEPTH, symmetric=symmetric) <= predicted


@pytest.mark.parametrize(("count", "k", "expected"), [(576, 58, 15), (2_880, 288, 92)])
def test_the_greedy_loop(count, k, expected):
    assert roofline.greedy_time(count, k) == pytest.approx(expected, rel=0.02)


def test_the_greedy_loop_over_similarities_beyond_the_l2_cache_is_a_lower_bound():
    assert 0.75 * 1_440 <= roofline.greedy_time(16_384, 1_638) <= 1_440


@pytest.mark.parametrize("count", [1, 576, 2_880, 16_384])
def test_a_step_is_the_published_sum(count):
    expected = 286 + 2 * count / 45 + count / 128 + 170
    assert roofline.greedy_step_cycles(count) == pytest.approx(expected, rel=1e-12)


def test_symmetry_halves_the_operations_but_not_the_bytes():
    whole = roofline.similarity_operations(2_880, DEPTH)
    assert whole == 2 * 2_880**2 * DEPTH
    assert roofline.similarity_operations(2_880, DEPTH, symmetric=True) == whole // 2 + 2_880 * DEPTH
    assert roofline.similarity_bytes(2_880, DEPTH) == 2_880 * DEPTH * 2 + 2_880**2 * 4
    full, half = (roofline.similarity_bound(2_880, DEPTH, symmetric=symmetric) for symmetric in (False, True))
    assert half == pytest.approx(full / 2, rel=1e-3)


def test_a_shallow_similarity_pass_is_bound_by_its_bytes():
    assert roofline.similarity_bound(2_880, 64) == 1e6 * roofline.similarity_bytes(2_880, 64) / 4.3e12


def test_float32_products_run_at_the_rate_outside_the_tensor_cores():
    ratio = roofline.similarity_bound(2_880, DEPTH, 4) / roofline.similarity_bound(2_880, DEPTH, 2)
    assert ratio == pytest.approx(790 / 67)


@pytest.mark.parametrize("symmetric", [False, True])
def test_more_work_never_takes_less_time(symmetric):
    sizes = [1, 2, 63, 64, 576, 577, 2_880, 8_192, 16_384]
    for function in (roofline.similarity_bound, roofline.similarity_time):
        for other in (1, 64, 4_096):
            by_count = [function(size, other, symmetric=symmetric) for size in sizes]
            by_depth = [function(other, size, symmetric=symmetric) for size in sizes]
            assert by_count == sorted(by_count)
            assert by_depth == sorted(by_depth)
    assert [roofline.greedy_time(size, 10) for size in sizes] == sorted(
        roofline.greedy_time(size, 10) for size in sizes
    )
    assert [roofline.greedy_time(10, size) for size in sizes] == sorted(
        roofline.greedy_time(10, size) for size in sizes
    )
    whole = [roofline.selection_bound([576] * items, [58] * items, DEPTH) for items in range(200)]
    assert whole == sorted(whole)


def test_a_selection_is_its_stages():
    expected = (
        roofline.similarity_bound(576, DEPTH, symmetric=True) + roofline.greedy_time(576, 58) + roofline.launch_time()
    )
    assert roofline.selection_bound([576], [58], DEPTH) == pytest.approx(expected)
    assert roofline.launch_time() == pytest.approx(3.9)
    assert roofline.selection_bound([], [], DEPTH) == roofline.launch_time()


def test_items_run_side_by_side_until_every_multiprocessor_has_one():
    one = roofline.greedy_time(576, 58)
    assert roofline.greedy_bound([576] * 132, [58] * 132) == pytest.approx(one)
    assert roofline.greedy_bound([576] * 264, [58] * 264) == pytest.approx(2 * one)
    assert roofline.greedy_bound([576, 2_880], [58, 288]) == roofline.greedy_time(2_880, 288)
