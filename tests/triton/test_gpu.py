"""What only a CUDA device can show: streams, graph capture and compilation."""

import collections
import contextlib

import pytest
import torch

import tokenprune_kernels
from tests.support.gpu import DEPTH, LONGEST, ON_A_GPU, OPERATORS, assert_equal, given, scored
from tests.support.inputs import (
    METHODS,
    arguments,
    gaussian_tokens,
    random_weight,
)
from tests.support.varlen import prefix_sums, varlen_arguments

triton = pytest.importorskip("triton", reason="the Triton backend needs triton")

from tokenprune_kernels.backends.triton import kernels, runtime  # noqa: E402

pytestmark = ON_A_GPU

KERNELS = tuple(getattr(kernels, name) for name in kernels.__all__ if name.endswith("_kernel"))


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
