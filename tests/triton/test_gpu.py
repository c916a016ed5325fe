"""What only a CUDA device can show: streams, graph capture, compilation, and the whole range of sizes."""

import collections
import contextlib
import dataclasses

import pytest
import torch

import tokenprune_kernels
from tests.conftest import INTERPRETED
from tests.support.forms import METHODS_WITH_FORMS
from tests.support.inputs import (
    DTYPES,
    METHODS,
    arguments,
    clustered_tokens,
    exact_tokens,
    exact_weight,
    gaussian_tokens,
    random_weight,
)
from tests.support.varlen import prefix_sums, varlen_arguments
from tokenprune_kernels.backends.triton import configs
from tokenprune_kernels.verify import verify_trace

triton = pytest.importorskip("triton", reason="the Triton backend needs triton")

from tokenprune_kernels.backends.triton import kernels, runtime  # noqa: E402

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
    pytest.mark.skipif(INTERPRETED, reason="TRITON_INTERPRET=1 is for the interpreter, and only for it"),
]

KERNELS = tuple(getattr(kernels, name) for name in kernels.__all__ if name.endswith("_kernel"))
OPERATORS = [name + suffix for suffix in ("", "_varlen") for name in METHODS]

# One bucket for all that is given below, so that it is compiled once: up to 1,024 rows, D a multiple of 64 above 64.
DEPTH, ROWS, LONGEST, TOTAL_K = 256, 1_200, 600, 50
RAGGED = [
    ((600, 0, 500), (30, 0, 10)),
    ((1, 599, 600), (1, 9, 40)),
    ((0, 0, 0), (0, 0, 0)),
    ((300, 300, 300), (5, 0, 45)),
]


def given(operator, seed=0, device="cuda"):
    """Arguments of an operator: two items of 600 rows, or three segments of up to 600 that change with the seed."""
    method, _, varlen = operator.partition("_")
    x = gaussian_tokens(ROWS, DEPTH, dtype=torch.bfloat16, seed=seed).to(device)
    weight = random_weight(ROWS, seed=seed).to(device)
    if not varlen:
        return arguments(method, x.unflatten(0, (2, LONGEST)), weight.unflatten(0, (2, LONGEST)), TOTAL_K)
    sums = (prefix_sums(*counts).to(device) for counts in RAGGED[seed % len(RAGGED)])
    return varlen_arguments(method, x, weight, *sums, TOTAL_K, LONGEST)


def scored(operator):
    return getattr(torch.ops.tokenprune, operator).scores


def assert_equal(result, expected):
    """Indices and the bits of the scores."""
    for mine, theirs in zip(result, expected, strict=True):
        assert torch.equal(mine.view(torch.int32), theirs.view(torch.int32))


def renew(tensors, values):
    """Writes new contents into tensors that keep their place."""
    for old, new in zip(tensors, values, strict=True):
        if isinstance(old, torch.Tensor):
            old.copy_(new)


@contextlib.contextmanager
def synchronisation_is_an_error():
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.fixture
def compilations(monkeypatch):
    """What Triton compiles during the test, as if it had compiled nothing before."""
    compiled = []
    monkeypatch.setattr(triton.knobs.runtime, "jit_post_compile_hook", lambda **kernel: compiled.append(kernel["repr"]))
    monkeypatch.setattr(runtime, "_compiled", set())
    for kernel in KERNELS:
        monkeypatch.setattr(kernel, "device_caches", collections.defaultdict(kernel.create_binder))
    return compiled


@pytest.mark.parametrize("operator", OPERATORS)
def test_a_captured_graph_serves_new_contents(operator):
    fixed = given(operator)
    scored(operator)(*fixed)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = scored(operator)(*fixed)
    for seed in (1, 2, 3, 0):
        renewed = given(operator, seed)
        renew(fixed, renewed)
        graph.replay()
        assert_equal(result, scored(operator)(*renewed))


@pytest.mark.parametrize("method", METHODS)
def test_captured_segments_that_break_the_contract_are_left_out(method):
    select, fixed = scored(f"{method}_varlen"), given(f"{method}_varlen")
    expected = select(*fixed)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = select(*fixed)
    cu_seqlens = fixed[1] if method == "divprune" else fixed[2]
    whole = cu_seqlens.clone()
    for broken, slots in ((torch.tensor([0, 601, 601, 1_100]), slice(0, 30)), (whole * 2, slice(0, 40))):
        cu_seqlens.copy_(broken)
        graph.replay()
        assert (result[0][slots] == -1).all()
        assert (result[0][40:] == -1).all()
    cu_seqlens.copy_(whole)
    graph.replay()
    assert_equal(result, expected)


@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("overload", ["default", "scores"])
def test_nothing_waits_for_the_device(operator, overload):
    select, tensors = getattr(getattr(torch.ops.tokenprune, operator), overload), given(operator)
    select(*tensors)
    with synchronisation_is_an_error():
        select(*tensors)


def test_waiting_for_the_device_would_be_noticed():
    with pytest.raises(RuntimeError, match="synchronizing CUDA operation"), synchronisation_is_an_error():
        torch.ones(1, device="cuda").item()


@pytest.mark.parametrize("operator", OPERATORS)
def test_the_current_stream_is_used(operator):
    arrived = given(operator)
    expected = scored(operator)(*arrived)
    pending = [torch.zeros_like(value) if isinstance(value, torch.Tensor) else value for value in arrived]
    torch.cuda.synchronize()
    stream = torch.cuda.Stream()

    def run(cycles):
        with torch.cuda.stream(stream):
            torch.cuda._sleep(cycles)
            renew(pending, arrived)
            return scored(operator)(*pending)

    run(1)  # the stream has memory of its own from here on, so that nothing below allocates
    renew(pending, [torch.zeros_like(value) if isinstance(value, torch.Tensor) else value for value in arrived])
    torch.cuda.synchronize()
    result = run(500_000_000)
    assert not stream.query(), "the call waited for the stream"
    assert torch.cuda.default_stream().query(), "work went to the default stream"
    stream.synchronize()
    assert_equal(result, expected)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
@pytest.mark.parametrize("operator", OPERATORS)
def test_the_device_of_the_tensors_is_used(operator):
    tensors = given(operator, device="cuda:1")
    with torch.cuda.device(1):
        expected = scored(operator)(*tensors)
    with torch.cuda.device(0):
        result = scored(operator)(*tensors)
        assert torch.cuda.current_device() == 0
    assert [tensor.device.index for tensor in result] == [1, 1]
    assert_equal(result, expected)


def test_another_shape_in_the_same_bucket_compiles_nothing(compilations):
    def run(items, count, depth, k, lam):
        x = gaussian_tokens(items, count, depth, dtype=torch.bfloat16).cuda()
        weight = random_weight(items, count).cuda()
        sums = prefix_sums(count).cuda(), prefix_sums(k).cuda()
        for method in METHODS:
            scored(method)(*arguments(method, x, weight, k, lam))
            scored(f"{method}_varlen")(*varlen_arguments(method, x[0], weight[0], *sums, k, count, lam))

    run(2, 600, 256, 50, 0.5)
    known = list(compilations)
    assert len(known) > len(KERNELS)
    for sizes in ((1, 513, 128, 1, 0.0), (3, 1_000, 4_096, 7, 1.0), (16, 1_024, 1_024, 100, 0.3)):
        run(*sizes)
    assert compilations == known


@pytest.mark.parametrize("operator", OPERATORS)
def test_capturing_a_cold_bucket_is_an_error_that_warming_up_cures(compilations, operator):
    tensors = given(operator)
    message = "expected a bucket compiled before the capture, got a new one; .*tokenprune_kernels.warmup"
    with pytest.raises(RuntimeError, match=message), torch.cuda.graph(torch.cuda.CUDAGraph()):
        scored(operator)(*tensors)
    assert not compilations
    tokenprune_kernels.warmup([(LONGEST, DEPTH)], methods=[operator.partition("_")[0]])
    warm = list(compilations)
    assert warm
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = scored(operator)(*tensors)
    graph.replay()
    assert_equal(result, scored(operator)(*tensors))
    assert compilations == warm


@pytest.mark.parametrize("operator", OPERATORS)
def test_tokens_off_a_whole_word_are_another_bucket(compilations, operator):
    x, *others = given(operator)
    scored(operator)(x, *others)
    warm = list(compilations)
    shifted = x.new_zeros(x.numel() + 1)[1:].view(x.shape).copy_(x)
    message = "expected a bucket compiled before the capture"
    with pytest.raises(RuntimeError, match=message), torch.cuda.graph(torch.cuda.CUDAGraph()):
        scored(operator)(shifted, *others)
    assert compilations == warm
    assert_equal(scored(operator)(shifted, *others), scored(operator)(x, *others))


@pytest.mark.parametrize("method", METHODS)
def test_rows_far_apart(method):
    x, weight = gaussian_tokens(5, 64, dtype=torch.bfloat16).cuda(), random_weight(5).cuda()
    apart = x.new_empty(2**32 + 64).as_strided((5, 64), (2**30, 1)).copy_(x)
    assert_equal(scored(method)(*arguments(method, apart, weight, 4)), scored(method)(*arguments(method, x, weight, 4)))


@pytest.mark.parametrize("operator", OPERATORS)
def test_torch_compile_replays_graphs(operator):
    from torch._inductor import cudagraph_trees  # seconds, for this test alone

    def kept(*tensors):
        indices, scores = scored(operator)(tensors[0] * 2, *tensors[1:])
        return indices + 1, scores + 1

    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    compiled = torch.compile(kept, mode="reduce-overhead", fullgraph=True)
    for seed in range(5):  # the first calls warm up and record
        tensors = given(operator, seed)
        torch.compiler.cudagraph_mark_step_begin()
        assert_equal(compiled(*tensors), kept(*tensors))
    assert torch._dynamo.utils.counters["inductor"]["cudagraph_skips"] == 0
    recorded = cudagraph_trees.get_manager(torch.cuda.current_device(), create_if_none_exists=False)
    assert recorded is not None
    assert any(recorded.roots.values())
    torch._dynamo.reset()


@pytest.mark.parametrize(
    ("count", "depth", "k", "non_zeros"), [(576, 4_096, 58, 256), (2_880, 4_096, 288, 64), (16_384, 64, 40, 16)]
)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("method", METHODS_WITH_FORMS)
def test_it_agrees_with_the_native_backend_where_similarities_are_exact(method, dtype, count, depth, k, non_zeros):
    x, weight = exact_tokens(count, depth, non_zeros=non_zeros, dtype=dtype), exact_weight(method, count)
    expected = scored(method)(*arguments(method, x, weight, k))
    result = scored(method)(*arguments(method, x.cuda(), weight.cuda(), k))
    for mine, theirs in zip(result, expected, strict=True):
        assert torch.equal(mine.cpu(), theirs)


@pytest.mark.parametrize("count", [576, 2_880])
@pytest.mark.parametrize("spread", ["gaussian", "clustered"])
@pytest.mark.parametrize("method", METHODS_WITH_FORMS)
def test_the_trace_is_right_at_full_size(method, spread, count):
    depth, k = 4_096, count // 10
    x = gaussian_tokens(count, depth) if spread == "gaussian" else clustered_tokens(count, depth, 32)
    x, weight = x.bfloat16(), random_weight(count)
    indices, scores = scored(method)(*arguments(method, x.cuda(), weight.cuda(), k))
    trace = verify_trace(method, x, indices.cpu(), None if method == "divprune" else weight, scores=scores.cpu(), k=k)
    assert trace, trace


def similarities(monkeypatch, x, config=None):
    """The bits of the similarities of all rows of x, int32 ``[N, N]``, in the workspace of the greedy kernel."""
    workspaces = []
    run = runtime.launch

    def recorded(kernel, programs, tensors, *rest, **options):
        workspaces.append(tensors.get("similarity"))
        run(kernel, programs, tensors, *rest, **options)

    with monkeypatch.context() as recording:
        recording.setattr(runtime, "launch", recorded)
        recording.setattr(configs, "lazy_greedy_wins", lambda *_: False)
        if config is not None:
            recording.setattr(configs, "similarity_config", lambda *_: config)
        torch.ops.tokenprune.divprune(x, 1)
    return workspaces[-1][: len(x), : len(x)].view(torch.int32)


def runnable_configurations(dtype, aligned=True):
    """The rows of the table that fit, and each with another step along D."""
    architecture = runtime.architecture(torch.device("cuda", torch.cuda.current_device()))
    fitting = [
        config
        for config in configs.SIMILARITY
        if dtype.itemsize in config.element_sizes
        and config.oldest_architecture <= architecture
        and (aligned or not config.needs_alignment)
    ]
    return fitting + [dataclasses.replace(config, block_d=32) for config in fitting if aligned]


@pytest.mark.parametrize("depth", [2_048, 2_080, 1_500])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_similarities_are_one_function_of_two_rows(monkeypatch, dtype, depth):
    x = gaussian_tokens(300, depth, dtype=dtype).cuda()
    expected = similarities(monkeypatch, x)
    assert torch.equal(expected, expected.mT)
    for config in runnable_configurations(dtype, aligned=depth % 8 == 0):
        assert torch.equal(similarities(monkeypatch, x, config), expected)
    order = torch.randperm(300, generator=torch.Generator().manual_seed(0)).cuda()
    assert torch.equal(similarities(monkeypatch, x[order]), expected[order][:, order])
    assert torch.equal(similarities(monkeypatch, x[77:150]), expected[77:150, 77:150])
    unaligned = x.new_full((301, depth + 3), torch.nan)[1:, 1:-2].copy_(x)
    assert torch.equal(similarities(monkeypatch, unaligned), expected)


@pytest.mark.parametrize("method", METHODS_WITH_FORMS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_configuration_gives_the_same_bits(monkeypatch, method, dtype):
    x, weight = gaussian_tokens(700, 1_040, dtype=dtype).cuda(), random_weight(700).cuda()
    expected = scored(method)(*arguments(method, x, weight, 700))
    for config in runnable_configurations(dtype):
        monkeypatch.setattr(configs, "similarity_config", lambda *_, config=config: config)
        assert_equal(scored(method)(*arguments(method, x, weight, 700)), expected)


@pytest.mark.parametrize("method", METHODS_WITH_FORMS)
def test_every_greedy_block_gives_the_same_bits(method):
    count, capacity = 300, configs.LARGEST_COUNT
    x, weight = torch.zeros(capacity, 64, dtype=torch.bfloat16), random_weight(capacity)
    x[:count] = gaussian_tokens(count, 64)
    x, weight = x.cuda(), weight.cuda()
    expected = scored(method)(*arguments(method, x[:count], weight[:count], count))
    sums = prefix_sums(count).cuda()
    for max_seqlen in (count, 1_024, 2_048, 4_096, 8_192, capacity):
        packed = varlen_arguments(method, x, weight, sums, sums, count, max_seqlen)
        assert_equal(scored(f"{method}_varlen")(*packed), expected)


@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("items", [1, 2])
def test_a_batch_in_slices_is_the_batch_at_once(force, operator, items):
    tensors = given(operator)
    expected = scored(operator)(*tensors)
    force(workspace_limit=items * 4 * LONGEST**2)
    assert_equal(scored(operator)(*tensors), expected)


@pytest.mark.parametrize("operator", OPERATORS)
def test_runs_side_by_side_do_not_disturb_each_other(operator):
    tensors = [given(operator, seed) for seed in range(4)]
    expected = [scored(operator)(*each) for each in tensors]
    streams = [torch.cuda.Stream() for _ in tensors]
    torch.cuda.synchronize()
    for _ in range(20):
        results = []
        for stream, each in zip(streams, tensors, strict=True):
            with torch.cuda.stream(stream):
                results.append(scored(operator)(*each))
        torch.cuda.synchronize()
        for mine, theirs in zip(results, expected, strict=True):
            assert_equal(mine, theirs)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("depth", [1_040, 1_001, 64])
@pytest.mark.parametrize("method", METHODS_WITH_FORMS)
def test_every_form_gives_the_same_bits(force, method, dtype, depth):
    x, weight = gaussian_tokens(700, depth, dtype=dtype).cuda(), random_weight(700).cuda()
    x[::50] = x[0]
    x[3], weight[7] = torch.nan, torch.inf
    force(form="materialised")
    expected = scored(method)(*arguments(method, x, weight, 700))
    for rounds in ({}, {"max_candidates": 40}, {"max_candidates": 64, "max_rounds": 1}):
        force(form="lazy_greedy", **rounds)
        assert_equal(scored(method)(*arguments(method, x, weight, 700)), expected)


@pytest.mark.parametrize("operator", OPERATORS)
def test_lazy_greedy_in_a_captured_graph(operator):
    fixed = given(operator)
    with runtime.settings(form="lazy_greedy"):
        scored(operator)(*fixed)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            result = scored(operator)(*fixed)
    for seed in (1, 2, 3, 0):
        renewed = given(operator, seed)
        renew(fixed, renewed)
        for _ in range(3):
            graph.replay()
        with runtime.settings(form="materialised"):
            assert_equal(result, scored(operator)(*renewed))


@pytest.mark.parametrize("operator", OPERATORS)
def test_lazy_greedy_side_by_side(operator):
    tensors = [given(operator, seed) for seed in range(4)]
    with runtime.settings(form="lazy_greedy"):
        expected = [scored(operator)(*each) for each in tensors]
        streams = [torch.cuda.Stream() for _ in tensors]
        torch.cuda.synchronize()
        for _ in range(20):
            results = []
            for stream, each in zip(streams, tensors, strict=True):
                with torch.cuda.stream(stream):
                    results.append(scored(operator)(*each))
            torch.cuda.synchronize()
            for mine, theirs in zip(results, expected, strict=True):
                assert_equal(mine, theirs)


@pytest.mark.parametrize("programs", [1, 2, 7])
@pytest.mark.parametrize("method", METHODS_WITH_FORMS)
def test_lazy_greedy_on_any_number_of_multiprocessors(monkeypatch, method, programs):
    tensors = given(method)
    with runtime.settings(form="lazy_greedy"):
        expected = scored(method)(*tensors)
        monkeypatch.setattr(runtime, "multiprocessors", lambda device: programs)
        assert_equal(scored(method)(*tensors), expected)


@pytest.mark.parametrize("count", [24_209, 65_536])
@pytest.mark.parametrize("method", METHODS_WITH_FORMS)
def test_more_rows_than_the_greedy_kernel_holds(method, count):
    x, weight = exact_tokens(count, 64, non_zeros=16, dtype=torch.bfloat16), exact_weight(method, count)
    expected = scored(method)(*arguments(method, x, weight, 40))
    result = scored(method)(*arguments(method, x.cuda(), weight.cuda(), 40))
    for mine, theirs in zip(result, expected, strict=True):
        assert torch.equal(mine.cpu(), theirs)


@pytest.mark.parametrize("method", METHODS_WITH_FORMS)
def test_memory_is_linear_in_the_rows(method):
    count, depth = 262_144, 64
    x, weight = torch.randn(count, depth, device="cuda").bfloat16(), torch.rand(count, device="cuda")
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    indices = getattr(torch.ops.tokenprune, method)(*arguments(method, x, weight, 1_000))
    assert torch.cuda.max_memory_allocated() - before < 2 * x.nbytes
    assert len(indices.unique()) == 1_000
