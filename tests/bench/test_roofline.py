"""The model of an H200 against the times it was made from, and against itself."""

import pytest

from tokenprune_kernels.backends.triton import configs

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


def modelled(method, count, depth=DEPTH):
    """The microseconds of either form, a tenth of the rows kept."""
    candidates = roofline.candidate_stages(method, count, count // 10, depth, configs.candidate_count(2, count))
    return sum(roofline.materialised_stages(count, count // 10, depth).values()), sum(candidates.values())


@pytest.mark.parametrize("method", ["divprune", "mmr", "idpruner"])
def test_the_thresholds_between_the_forms_are_those_of_the_model(method):
    threshold = configs.LAZY_GREEDY_FROM[method]
    for count in (threshold, 2 * threshold, configs.LARGEST_COUNT):
        materialised, candidates = modelled(method, count)
        assert candidates <= 1.01 * materialised
        assert configs.lazy_greedy_wins(method, count)
    for count in (576, threshold // 2, threshold * 3 // 4 // 64 * 64):
        materialised, candidates = modelled(method, count)
        assert materialised <= 1.05 * candidates
        assert not configs.lazy_greedy_wins(method, count)


def test_the_stages_of_the_materialised_form():
    stages = roofline.materialised_stages(2_880, 288, DEPTH)
    assert list(stages) == ["row norms", "similarity pass", "greedy loop"]
    assert 52 <= stages["similarity pass"] <= 90
    assert stages["greedy loop"] == pytest.approx(roofline.greedy_time(2_880, 288) + roofline.LAUNCH_MICROSECONDS)
    assert stages["row norms"] > 1e6 * 2_880 * DEPTH * 2 / roofline.H200.bytes_per_second


def test_a_batch_is_modelled_to_fill_the_chip():
    one, batch = (sum(roofline.materialised_stages(576, 58, DEPTH, items=items).values()) for items in (1, 64))
    assert 5 * one < batch < 64 * one
    assert batch > 1e6 * 64 * 576 * DEPTH * 2 / roofline.H200.bytes_per_second


def test_a_split_depth_is_modelled_to_pay_where_tiles_are_few():
    split = roofline.materialised_stages(576, 58, DEPTH)["similarity pass"]
    whole = roofline.tile_pass_time(45, 128, DEPTH)
    assert split < whole
    assert configs.split_k(45, 4, roofline.H200.multiprocessors) == 4
    assert configs.split_k(roofline.H200.multiprocessors, 4, roofline.H200.multiprocessors) == 1
    assert configs.split_k(1, configs.MAX_SPLITS + 1, roofline.H200.multiprocessors) == 1


def test_depth_is_modelled_to_be_split_where_it_is():
    kernels = pytest.importorskip(
        "tokenprune_kernels.backends.triton.kernels", reason="the Triton backend needs triton"
    )
    assert kernels.SPLIT_BLOCKS.value == roofline.SPLIT_BLOCKS
    assert kernels.CHUNK.value == roofline.CHUNK
    few, many = (roofline.split_pass_time(45, DEPTH, columns=columns) for columns in (128, 129))
    assert many > 2 * few
    deep = roofline.CHUNK * (configs.MAX_SPLITS + 1)
    assert roofline.split_pass_time(45, deep) == roofline.tile_pass_time(45, 128, deep)


def test_units_beyond_the_multiprocessors_take_another_wave():
    one = roofline.tile_pass_time(1, 128, DEPTH)
    assert roofline.tile_pass_time(roofline.H200.multiprocessors, 128, DEPTH) == one
    assert roofline.tile_pass_time(roofline.H200.multiprocessors + 1, 128, DEPTH) > 1.5 * one


def test_rows_beyond_the_l2_cache_come_from_memory():
    fitting = int(roofline.H200.l2_bytes / (2 * DEPTH))
    one = roofline.tile_pass_time(1, 128, DEPTH)
    assert roofline.tile_pass_time(1, 128, DEPTH, all_rows=fitting) == one
    beyond = roofline.tile_pass_time(1, 128, DEPTH, all_rows=4 * fitting)
    assert beyond == pytest.approx(4e6 * roofline.H200.l2_bytes / roofline.H200.bytes_per_second, rel=0.02)


@pytest.mark.parametrize("method", ["divprune", "mmr"])
def test_the_stages_of_the_lazy_greedy_form(method):
    stages = roofline.candidate_stages(method, 65_536, 6_553, DEPTH, 1_024)
    assert list(stages) == ["row norms", "first pick", "lazy greedy rounds"]
    # No round reads x faster than memory gives it.
    least = roofline.candidate_rounds(method, 6_553) * 1e6 * 65_536 * DEPTH * 2 / roofline.H200.bytes_per_second
    assert stages["lazy greedy rounds"] > least
    sizes = [576, 2_880, 8_192, 16_384, 65_536, 262_144]
    totals = [sum(roofline.candidate_stages(method, size, size // 10, DEPTH, 512).values()) for size in sizes]
    assert totals == sorted(totals)
    assert roofline.candidate_rounds("divprune", 288) == pytest.approx(8, abs=1)
    assert roofline.candidate_rounds("mmr", 292) == pytest.approx(4, abs=1)


def test_a_device_is_known_by_the_name_that_the_driver_gives():
    assert roofline.gpu_named("NVIDIA H100 80GB HBM3") is roofline.H100
    assert roofline.gpu_named("NVIDIA H200") is roofline.gpu_named("another") is roofline.H200


@pytest.mark.parametrize("count", [576, 2_880, 16_384])
def test_slower_memory_makes_no_prediction_shorter(count):
    k = count // 10
    for stages in (
        lambda gpu: roofline.materialised_stages(count, k, DEPTH, gpu=gpu),
        lambda gpu: roofline.candidate_stages("divprune", count, k, DEPTH, 512, gpu=gpu),
    ):
        h200, h100 = stages(roofline.H200), stages(roofline.H100)
        assert h100["row norms"] > h200["row norms"]
        assert all(h100[stage] >= 0.98 * h200[stage] for stage in h200)
    bytes_alone = roofline.similarity_bound(count, 64, gpu=roofline.H100) / roofline.similarity_bound(count, 64)
    assert bytes_alone == pytest.approx(4.3 / 3.0)


def test_every_prediction_shown_is_in_the_form_that_the_backend_takes():
    lines = roofline.table().splitlines()[2:]
    assert len(lines) == len(roofline.SHOWN)
    for line, (method, items, count, _) in zip(lines, roofline.SHOWN, strict=True):
        assert (" lazy greedy " in line) == configs.lazy_greedy_wins(method, count)
        assert line.startswith(f"| `{method}` | {'64 x ' if items == 64 else ''}{count:,}, k = ")
