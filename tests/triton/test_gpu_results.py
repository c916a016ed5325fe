"""What the operators select on a CUDA device, over the whole range of sizes and configurations."""

import dataclasses

import pytest
import torch

from tests.support.forms import METHODS_WITH_FORMS
from tests.support.gpu import LONGEST, ON_A_GPU, OPERATORS, assert_equal, given, scored
from tests.support.inputs import (
    DTYPES,
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

from tokenprune_kernels.backends.triton import runtime  # noqa: E402

pytestmark = ON_A_GPU


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
