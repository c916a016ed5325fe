"""What is particular to the Triton backend: slices, configurations, buckets, captures and limits."""

import pytest
import torch

import tokenprune_kernels
from tests.support.forms import METHODS_WITH_FORMS
from tests.support.inputs import (
    METHODS,
    WITH_INITIAL,
    arguments,
    exact_tokens,
    exact_weight,
    gaussian_tokens,
    judged,
    ops,
    random_weight,
)
from tests.support.slow import slow_if_interpreted
from tests.support.subprocess import python
from tests.support.varlen import prefix_sums, varlen_arguments
from tokenprune_kernels.backends import triton as backend_package
from tokenprune_kernels.backends.triton import configs

pytest.importorskip("triton", reason="the Triton backend needs triton")

from tokenprune_kernels.backends.triton import kernels, operators, runtime
from tokenprune_kernels.backends.triton.forms import Form, materialised

only_triton = pytest.mark.parametrize(
    "backend",
    [
        pytest.param(("triton", "cpu"), id="triton", marks=pytest.mark.interpret),
        pytest.param(("triton", "cuda"), id="gpu", marks=pytest.mark.gpu),
    ],
    indirect=True,
)


@pytest.fixture
def runs(monkeypatch):
    """The form of each slice, and its first item."""
    recorded, run = [], Form.run

    def recording(form, first, *arguments, **sizes):
        recorded.append((form.name, first))
        run(form, first, *arguments, **sizes)

    monkeypatch.setattr(Form, "run", recording)
    return recorded


@only_triton
@pytest.mark.parametrize("method", METHODS_WITH_FORMS)
@pytest.mark.parametrize(
    ("limit", "form", "firsts"),
    [
        (1, "lazy_greedy", range(5)),
        (4 * 12 * 12, "materialised", range(5)),
        (8 * 12 * 12, "materialised", (0, 2, 4)),
    ],
)
@slow_if_interpreted(lambda method: method != "divprune")
def test_a_batch_in_slices_is_the_batch_at_once(backend, force, runs, method, limit, form, firsts):
    x, weight = gaussian_tokens(5, 11, 16), random_weight(5, 11)
    expected = getattr(ops, method).scores(*arguments(method, x, weight, 4))
    assert runs == [("materialised", 0)]
    runs.clear()
    force(workspace_limit=limit)
    for mine, theirs in zip(getattr(ops, method).scores(*arguments(method, x, weight, 4)), expected, strict=True):
        assert torch.equal(mine, theirs)
    assert runs == [(form, first) for first in firsts]


@only_triton
@pytest.mark.parametrize("method", METHODS_WITH_FORMS)
def test_a_ragged_batch_beyond_the_limit_takes_the_lazy_greedy_form(backend, force, runs, method):
    x, weight, sums = gaussian_tokens(40, 16), random_weight(40), (prefix_sums(*[10] * 4), prefix_sums(*[2] * 4))
    select = getattr(ops, f"{method}_varlen").scores
    expected = select(*varlen_arguments(method, x, weight, *sums, 8, 10))
    # Rows times the longest segment bound the sum of the squares of the lengths; each is padded to 4 rows.
    for limit, form in ((4 * 12 * 48, "materialised"), (4 * 12 * 48 - 1, "lazy_greedy")):
        force(workspace_limit=limit)
        for mine, theirs in zip(select(*varlen_arguments(method, x, weight, *sums, 8, 10)), expected, strict=True):
            assert torch.equal(mine, theirs)
        assert runs[-1] == (form, 0)
    assert len(runs) == 3


@only_triton
def test_a_loose_longest_segment_costs_no_more_launches(backend, force, runs):
    force(workspace_limit=4 * 70 * 70)
    x = gaussian_tokens(40, 16)
    sums = prefix_sums(*[10] * 4), prefix_sums(*[2] * 4)
    expected = ops.divprune_varlen(x, *sums, 8, 10)
    assert torch.equal(ops.divprune_varlen(x, *sums, 8, 40), expected)
    assert runs == [("materialised", 0)] * 2


@only_triton
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@slow_if_interpreted(lambda dtype: dtype != torch.bfloat16)
def test_every_configuration_gives_the_same_bits(backend, monkeypatch, dtype):
    x, weight = gaussian_tokens(140, 1_040, dtype=dtype), random_weight(140)
    results = []
    for config in configs.SIMILARITY:
        if dtype.itemsize in config.element_sizes:
            monkeypatch.setattr(configs, "similarity_config", lambda *_, config=config: config)
            results.append((ops.divprune.scores(x, 9), ops.mmr.scores(x, weight, 9)))
    assert len(results) > 1
    for result in results[1:]:
        for mine, theirs in zip(sum(result, ()), sum(results[0], ()), strict=True):
            assert torch.equal(mine, theirs)


@only_triton
@pytest.mark.parametrize("method", METHODS_WITH_FORMS)
@slow_if_interpreted(lambda method: method != "mmr")
def test_every_greedy_block_gives_the_same_bits(backend, monkeypatch, method):
    x, weight = gaussian_tokens(40, 16), random_weight(40)
    x[3], weight[7], weight[9] = torch.inf, -torch.nan, torch.inf
    expected = getattr(ops, method).scores(*arguments(method, x, weight, 40))
    packed = varlen_arguments(method, x, weight, prefix_sums(40), prefix_sums(40), 40, 40)
    for block_n in (128, 2_048):
        monkeypatch.setattr(materialised.triton, "next_power_of_2", lambda _, block_n=block_n: block_n)
        for mine, theirs in zip(getattr(ops, f"{method}_varlen").scores(*packed), expected, strict=True):
            assert torch.equal(mine, theirs)


@only_triton
@pytest.mark.parametrize("method", METHODS_WITH_FORMS)
def test_it_agrees_with_the_native_backend_where_similarities_are_exact(backend, method):
    x = exact_tokens(70, 64, non_zeros=16, dtype=torch.bfloat16)
    weight = exact_weight(method, 70)
    with tokenprune_kernels.use_backend("native"):
        expected = getattr(torch.ops.tokenprune, method).scores(*arguments(method, x, weight, 30))
    for mine, theirs in zip(getattr(ops, method).scores(*arguments(method, x, weight, 30)), expected, strict=True):
        assert torch.equal(mine, theirs)


def test_the_lazy_greedy_form_is_taken_from_the_threshold_on(force):
    force(workspace_limit=2**30)
    for method, threshold in configs.LAZY_GREEDY_FROM.items():
        for count, form in ((threshold - 1, "materialised"), (threshold, "lazy_greedy")):
            assert operators.plan(method, (count, 8), torch.bfloat16).form == form
    for segments, form in ((16, "materialised"), (17, "lazy_greedy")):
        shape = segments * 4_096, 8
        assert operators.plan("divprune", shape, torch.bfloat16, segments=segments, max_seqlen=4_096).form == form


@only_triton
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("form", ["materialised", "lazy_greedy"])
@pytest.mark.parametrize("limit", [1, 2**30])
@pytest.mark.parametrize("count", [9])
@slow_if_interpreted(lambda method: method == "idpruner")
def test_the_plan_says_what_is_launched(backend, force, monkeypatch, method, form, limit, count):
    launched, capacities = [], []
    launch = runtime.launch

    def recorded(kernel, programs, tensors, sizes, *rest, **options):
        launched.append(kernel.__name__)
        if kernel.__name__ == "row_norm_kernel":
            capacities.append(tensors["reciprocal_norm"].shape[0] // 4)
        launch(kernel, programs, tensors, sizes, *rest, **options)

    monkeypatch.setattr(runtime, "launch", recorded)
    force(form=form, workspace_limit=limit)
    x, weight = gaussian_tokens(3, count, 8), random_weight(3, count)
    planned = operators.plan(method, x.shape, x.dtype)
    assert planned.form == ("dpp" if method == "dpp" else form)
    assert planned.slice_items == (1 if limit == 1 else 3)
    getattr(ops, method)(*arguments(method, x, weight, 2))
    slices = 3 // planned.slice_items
    assert launched == list(planned.kernels) * slices
    assert capacities == [planned.capacity] * slices
    launched.clear()
    capacities.clear()
    sums = prefix_sums(4, 5), prefix_sums(1, 2)
    getattr(ops, f"{method}_varlen")(*varlen_arguments(method, x[0], weight[0], *sums, 3, 7))
    planned = operators.plan(method, x[0].shape, x.dtype, segments=2, max_seqlen=7)
    assert launched == list(planned.kernels)
    assert planned.slice_items == 2
    assert capacities == [planned.capacity]


@only_triton
def test_skipped_kernels_are_not_launched(backend, force):
    x = gaussian_tokens(12, 8)
    planned = operators.plan("divprune", x.shape, x.dtype)
    before = ops.divprune(x, 2)
    force(skipped_kernels=frozenset(planned.kernels[-1:]))
    assert not torch.equal(ops.divprune(x, 2), before)


@only_triton
def test_many_segments_have_fewer_candidates_each(backend, force, monkeypatch):
    limits = []
    launch = runtime.launch
    monkeypatch.setattr(runtime, "launch", lambda *a, **o: (limits.append(a[3].get("max_candidates")), launch(*a, **o)))
    x, sums = gaussian_tokens(12, 8), (prefix_sums(5, 7), prefix_sums(2, 3))
    force(form="lazy_greedy")
    expected = ops.divprune_varlen(x, *sums, 5, 7)
    force(form="lazy_greedy", workspace_limit=2 * 4 * 128**2)
    assert torch.equal(ops.divprune_varlen(x, *sums, 5, 7), expected)
    # Of the search for the first pick, and of the rounds after it.
    assert [limit for limit in limits if limit] == [256, 256, 128, 128]


@only_triton
def test_sizes_of_one_bucket_share_their_kernels(backend, monkeypatch):
    monkeypatch.setattr(runtime, "_compiled", set())

    def run(items, count, depth, k):
        x, weight = gaussian_tokens(items, count, depth, dtype=torch.bfloat16), random_weight(items, count)
        ops.divprune(x, k)
        ops.idpruner(x, weight, k, 0.1 * k)
        ops.divprune_varlen(x[0], prefix_sums(count), prefix_sums(k), k, count)

    run(3, 20, 128, 4)
    known = len(runtime._compiled)
    for sizes in ((1, 17, 128, 1), (2, 32, 192, 7), (4, 31, 1024, 2)):
        run(*sizes)
        assert len(runtime._compiled) == known
    run(1, 33, 128, 1)
    assert len(runtime._compiled) > known


@only_triton
def test_nothing_is_compiled_inside_a_capture(backend, monkeypatch):
    x = gaussian_tokens(20, 24, dtype=torch.float16)
    monkeypatch.setattr(runtime, "_compiled", set())
    with monkeypatch.context() as capturing:
        capturing.setattr(torch.cuda, "is_available", lambda: True)
        capturing.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
        with pytest.raises(RuntimeError, match="row_norm_kernel: expected a bucket compiled before the capture"):
            ops.divprune(x, 3)
    tokenprune_kernels.warmup([(20, 24)], dtype=torch.float16, methods=["divprune"], device=ops.device)
    names = {bucket[0].__name__ for bucket in runtime._compiled}
    assert names >= {"similarity_kernel", "greedy_kernel", "outlier_kernel", "lazy_greedy_kernel"}
    with monkeypatch.context() as capturing:
        capturing.setattr(torch.cuda, "is_available", lambda: True)
        capturing.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
        assert ops.divprune(x, 3).shape == (3,)
        assert ops.divprune_varlen(x, prefix_sums(9, 11), prefix_sums(2, 2), 5, 18).shape == (5,)


@only_triton
def test_every_method_is_warmed_up(backend, monkeypatch):
    monkeypatch.setattr(runtime, "_compiled", set())
    tokenprune_kernels.warmup([(9, 8)], dtype=torch.float32, device=ops.device)
    # A selection over several processes is never captured.
    assert {bucket[0].__name__ for bucket in runtime._compiled} == {
        name for name in kernels.__all__ if name.endswith("_kernel") and name != "cross_similarity_kernel"
    }


@only_triton
@pytest.mark.parametrize("method", METHODS_WITH_FORMS)
@slow_if_interpreted(lambda method: method != "divprune")
def test_more_rows_than_the_greedy_kernel_holds_are_no_limit(backend, monkeypatch, runs, method):
    monkeypatch.setattr(configs, "LARGEST_COUNT", 20)
    x, weight = gaussian_tokens(21, 8), random_weight(21)
    judged(method, x, weight, 7)
    judged(method, x[:20], weight[:20], 7)
    getattr(ops, f"{method}_varlen")(*varlen_arguments(method, x, weight, prefix_sums(21), prefix_sums(1), 1, 21))
    assert [form for form, _ in runs] == ["lazy_greedy"] * 2 + ["materialised"] * 2 + ["lazy_greedy"]


@only_triton
@pytest.mark.slow
def test_a_single_pick_of_more_rows_than_the_greedy_kernel_holds(backend, force):
    force(max_candidates=1)
    x = torch.ones(configs.LARGEST_COUNT + 1, 1)
    x[1_000] = -1
    assert ops.divprune(x, 2).tolist() == [1_000, 0]


@only_triton
@pytest.mark.parametrize("method", METHODS_WITH_FORMS)
def test_a_dot_product_that_overflows_where_the_sum_of_squares_did_not(backend, method):
    largest = torch.finfo(torch.float32).max
    row = torch.zeros(256 * 12 + 1)
    row[0] = torch.tensor(largest).sqrt().nextafter(torch.tensor(0.0))
    row[256] = ((largest - row[0].double() ** 2) * 0.98).sqrt()
    # Lost where the norm adds them to the square of the first element, not where a chunk adds them to one another.
    row[512::256] = 2.8e15
    x = torch.stack([torch.full_like(row, torch.nan), row, row.roll(0)])
    assert getattr(ops, method)(*arguments(method, x, torch.ones(3), 3)).tolist() == [1, 2, 0]


@pytest.mark.parametrize("backend", [pytest.param(("triton", "cpu"), marks=pytest.mark.interpret)], indirect=True)
@pytest.mark.parametrize(
    ("shape", "strides"), [((9, 8), (2**30, 1)), ((4, 7), (2**31 + 1, 1)), ((2, 3, 8), (2**32, 2**30, 1))]
)
@pytest.mark.parametrize("method", METHODS)
@slow_if_interpreted(lambda method: method == "idpruner")
def test_rows_far_apart(backend, tmp_path, method, shape, strides):
    with (tmp_path / "sparse").open("wb") as file:
        file.truncate(2**34 + 2**13)
    memory = torch.from_file(str(tmp_path / "sparse"), shared=True, size=2**33 + 2**12, dtype=torch.bfloat16)
    x, weight = gaussian_tokens(*shape, dtype=torch.bfloat16), random_weight(*shape[:-1])
    apart = memory.as_strided(shape, strides).copy_(x)
    result = getattr(ops, method).scores(*arguments(method, apart, weight, 2))
    for mine, theirs in zip(result, getattr(ops, method).scores(*arguments(method, x, weight, 2)), strict=True):
        assert torch.equal(mine, theirs)


@only_triton
def test_sizes_beyond_what_a_kernel_counts_are_an_error(backend):
    message = "^divprune: expected D to be at most 1073741824 on the triton backend, got 1073741825$"
    with pytest.raises(ValueError, match=message):
        operators.operator("divprune", "default")(torch.ones(1).expand(2, 2**30 + 1), 1)
    message = "^mmr: expected N to be at most 1073741824 on the triton backend, got 1073741825$"
    with pytest.raises(ValueError, match=message):
        operators.operator("mmr", "default")(torch.ones(1, 1).expand(2**30 + 1, 1), torch.ones(1).expand(2**30 + 1), 1)
    segments = 2**21
    sums = torch.zeros(segments + 1, dtype=torch.int32), torch.zeros(segments + 1, dtype=torch.int32)
    message = "expected at most 2097151 segments with max_seqlen = 16384 on the triton backend, got 2097152"
    with pytest.raises(ValueError, match=message):
        operators.operator("divprune_varlen", "default")(torch.ones(1).expand(16_384, 8), *sums, 1, 16_384)


@only_triton
def test_capacities_beyond_the_rows_are_no_limit(backend):
    x = gaussian_tokens(6, 8)
    indices = ops.divprune_varlen(x, prefix_sums(2, 4), prefix_sums(1, 2), 1_000, 2**31 - 1)
    assert torch.equal(indices[:3], ops.divprune_varlen(x, prefix_sums(2, 4), prefix_sums(1, 2), 3, 4))
    assert (indices[3:] == -1).all()


@pytest.mark.slow
def test_cpu_tensors_need_the_interpreter():
    code = """
import torch, tokenprune_kernels as t
with t.use_backend("triton"):
    t.divprune(torch.eye(3), 1)
"""
    expected = "RuntimeError: divprune: backend 'triton' cannot run on cpu tensors: it runs on CPU tensors only in"
    assert expected in python(code, TRITON_INTERPRET="0").stderr
    assert python(code, TRITON_INTERPRET="1").returncode == 0


def test_a_missing_triton_is_a_reason(monkeypatch):
    monkeypatch.setattr(backend_package.importlib.util, "find_spec", lambda name: None)
    backend_package.unavailable.cache_clear()
    try:
        assert backend_package.unavailable("cuda") == "triton is not installed"
    finally:
        backend_package.unavailable.cache_clear()


@pytest.mark.slow
def test_the_package_does_not_import_triton():
    assert python("import sys, tokenprune_kernels; print('triton' in sys.modules)").stdout.strip() == "False"


@only_triton
@pytest.mark.parametrize("method", WITH_INITIAL)
def test_initial_rows_are_refused_in_one_line(backend, method):
    x, weight, initial = gaussian_tokens(9, 8), random_weight(9), torch.tensor([3])
    with pytest.raises(
        ValueError, match=f"^{method}: expected initial to be None on the triton backend, got a tensor$"
    ):
        getattr(ops, method)(*arguments(method, x, weight, 2, initial=initial))
