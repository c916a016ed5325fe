"""The operators under opcheck, torch.compile and torch.export."""

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend

import tokenprune_kernels
from tests.support.inputs import (
    DTYPES,
    LAYOUTS,
    METHODS,
    WITH_INITIAL,
    arguments,
    gaussian_tokens,
    random_weight,
    with_layout,
)
from tests.support.slow import slow_if
from tests.support.varlen import prefix_sums, varlen_arguments

ops = torch.ops.tokenprune


@pytest.fixture(autouse=True)
def fresh_dynamo():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def dense_arguments(method, dtype=torch.float32, layout="contiguous", k=4):
    x = with_layout(gaussian_tokens(2, 9, 6, dtype=dtype), layout)
    return arguments(method, x, random_weight(*x.shape[:-1]), k)


def packed_arguments(method, dtype=torch.float32, layout="contiguous"):
    x = gaussian_tokens(14, 6, dtype=dtype)
    x = x if layout == "expanded" else with_layout(x, layout)
    return varlen_arguments(method, x, random_weight(14), prefix_sums(5, 0, 8), prefix_sums(2, 0, 3), 7, 8)


@pytest.mark.parametrize("namespace", ["tokenprune", "tokenprune_native"])
@pytest.mark.parametrize("overload", ["default", "scores"])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
@slow_if(lambda dtype, layout: LAYOUTS.index(layout) % len(DTYPES) != DTYPES.index(dtype))
@slow_if(
    lambda namespace, overload, method, layout: (
        (LAYOUTS.index(layout) + METHODS.index(method)) % 4
        != 2 * (namespace == "tokenprune_native") + (overload == "scores")
    )
)
def test_opcheck(namespace, overload, method, dtype, layout):
    for name, given in (
        (method, dense_arguments(method, dtype, layout)),
        (f"{method}_varlen", packed_arguments(method, dtype, layout)),
    ):
        torch.library.opcheck(getattr(getattr(getattr(torch.ops, namespace), name), overload), given)


@pytest.mark.parametrize("method", METHODS)
def test_opcheck_with_gradients_and_nothing_to_keep(method):
    x, *rest = dense_arguments(method)
    torch.library.opcheck(getattr(ops, method).scores, (x.requires_grad_(), *rest))
    torch.library.opcheck(getattr(ops, method).default, dense_arguments(method, k=0))


@pytest.mark.parametrize("method", METHODS)
@slow_if(lambda method: method != "mmr")
def test_a_compiled_function_gives_the_same_tokens(method):
    def kept(x, weight, k):
        indices, scores = getattr(ops, method).scores(*arguments(method, 2 * x, weight, k))
        return x.gather(-2, indices.unsqueeze(-1).expand(-1, -1, x.shape[-1])) + 1, scores

    compiled = torch.compile(kept, fullgraph=True, dynamic=True)
    for count, k in ((9, 4), (30, 7), (31, 31)):
        x, weight = gaussian_tokens(2, count, 6), random_weight(2, count)
        for mine, expected in zip(compiled(x, weight, k), kept(x, weight, k), strict=True):
            assert torch.equal(mine, expected)


@pytest.mark.parametrize("method", METHODS)
@slow_if(lambda method: method != "mmr")
def test_a_compiled_varlen_function(method):
    def kept(x, weight, cu_seqlens, cu_k, total_k, max_seqlen):
        given = varlen_arguments(method, x + 1, weight, cu_seqlens, cu_k, total_k, max_seqlen)
        return getattr(ops, f"{method}_varlen")(*given) + 1

    compiled = torch.compile(kept, fullgraph=True, dynamic=True)
    for lengths, kept_counts in (((5, 0, 8), (2, 0, 3)), ((20, 3), (9, 1))):
        rows = sum(lengths)
        given = (gaussian_tokens(rows, 6), random_weight(rows), prefix_sums(*lengths), prefix_sums(*kept_counts))
        given += (sum(kept_counts), max(lengths))
        assert torch.equal(compiled(*given), kept(*given))


@pytest.mark.parametrize("namespace", ["tokenprune", "tokenprune_native"])
@pytest.mark.parametrize("overload", ["default", "scores"])
@pytest.mark.parametrize("method", WITH_INITIAL)
@slow_if(lambda namespace, overload: (namespace == "tokenprune") != (overload == "scores"))
def test_opcheck_with_initial_rows(namespace, overload, method):
    given = *dense_arguments(method), torch.tensor([[0, 8], [5, 1]])
    torch.library.opcheck(getattr(getattr(getattr(torch.ops, namespace), method), overload), given)


@pytest.mark.parametrize("method", WITH_INITIAL)
@slow_if(lambda method: method != "mmr")
def test_a_compiled_function_goes_on_from_initial_rows(method):
    def more(x, weight, k):
        first = getattr(ops, method)(*arguments(method, x, weight, k))
        return getattr(tokenprune_kernels, method)(*arguments(method, x, weight, k)[:2], k=k, initial=first)

    def more_of_divprune(x, weight, k):
        return tokenprune_kernels.divprune(x, k, initial=ops.divprune(x, k))

    function = more_of_divprune if method == "divprune" else more
    compiled = torch.compile(function, fullgraph=True, dynamic=True)
    for count, k in ((9, 4), (30, 7), (31, 15)):
        x, weight = gaussian_tokens(2, count, 6), random_weight(2, count)
        assert torch.equal(compiled(x, weight, k), function(x, weight, k))


@pytest.mark.parametrize("method", METHODS)
def test_changing_sizes_recompile_at_most_once(method):
    counter = CompileCounterWithBackend("eager")
    compiled = torch.compile(
        lambda x, weight, k: getattr(ops, method)(*arguments(method, x, weight, k)), backend=counter, fullgraph=True
    )
    for count in range(5, 25):
        compiled(gaussian_tokens(count, 6), random_weight(count), 2 + count // 3)
    assert counter.frame_count <= 2


@pytest.mark.parametrize("method", METHODS)
def test_changing_ragged_batches_recompile_at_most_once(method):
    counter = CompileCounterWithBackend("eager")
    compiled = torch.compile(
        lambda *given: getattr(ops, f"{method}_varlen")(*varlen_arguments(method, *given)),
        backend=counter,
        fullgraph=True,
    )
    for segments in range(3, 12):
        lengths = range(3, 3 + segments)
        given = (gaussian_tokens(sum(lengths), 6), random_weight(sum(lengths)))
        compiled(*given, prefix_sums(*lengths), prefix_sums(*[2] * segments), 2 * segments, max(lengths))
    assert counter.frame_count <= 2


def test_lam_is_a_constant_of_the_graph():
    counter = CompileCounterWithBackend("eager")
    compiled = torch.compile(
        lambda x, weight, lam: ops.mmr(x, weight, 3, lam), backend=counter, fullgraph=True, dynamic=True
    )
    x, weight = gaussian_tokens(9, 6), random_weight(9)
    for lam in (0.25, 0.75, 0.25):
        assert torch.equal(compiled(x, weight, lam), ops.mmr(x, weight, 3, lam))
    assert counter.frame_count == 2


@pytest.mark.parametrize("method", METHODS)
@slow_if(lambda method: method != "mmr")
def test_the_python_api_compiles(method):
    weights = () if method == "divprune" else (random_weight(2, 30),)
    function = getattr(tokenprune_kernels, method)

    def kept(x):
        return function(x, *weights, keep_ratio=0.2, sorted=True)

    x = gaussian_tokens(2, 30, 6)
    assert torch.equal(torch.compile(kept, fullgraph=True)(x), kept(x))


def test_a_ratio_of_a_changing_size():
    compiled = torch.compile(
        lambda x: tokenprune_kernels.divprune(x, keep_ratio=0.25), backend="eager", fullgraph=True, dynamic=True
    )
    for count in (8, 9, 10, 14, 30):
        x = gaussian_tokens(count, 6)
        assert torch.equal(compiled(x), tokenprune_kernels.divprune(x, keep_ratio=0.25))


def test_prune_compiles_with_gradients():
    def loss(x):
        tokens, _ = tokenprune_kernels.prune(x, 5)
        return tokens.square().sum()

    x = gaussian_tokens(2, 30, 6).requires_grad_()
    (expected,) = torch.autograd.grad(loss(x), x)
    (gradient,) = torch.autograd.grad(torch.compile(loss, fullgraph=True)(x), x)
    assert torch.equal(gradient, expected)


@pytest.mark.parametrize("method", METHODS)
def test_an_exported_program_takes_other_sizes(method):
    class Kept(torch.nn.Module):
        def forward(self, x, weight):
            indices = getattr(ops, method)(*arguments(method, x, weight, 5))
            return x.gather(-2, indices.unsqueeze(-1).expand(-1, -1, x.shape[-1]))

    count = torch.export.Dim("count", min=5)
    program = torch.export.export(
        Kept(), (gaussian_tokens(2, 30, 6), random_weight(2, 30)), dynamic_shapes=({1: count}, {1: count})
    )
    x, weight = gaussian_tokens(2, 50, 6), random_weight(2, 50)
    assert torch.equal(program.module()(x, weight), Kept()(x, weight))


def test_the_backend_is_picked_when_a_compiled_function_runs():
    compiled = torch.compile(lambda x: ops.divprune(x, 3) + 0, fullgraph=True)
    x = gaussian_tokens(9, 6)
    compiled(x)
    with (
        tokenprune_kernels.use_backend("triton"),
        pytest.raises(RuntimeError, match="divprune: backend 'triton' cannot run on cpu tensors"),
    ):
        compiled(x)
    assert torch.equal(compiled(x), ops.divprune(x, 3))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: ops.divprune(x, 10), "divprune: expected k to be in [0, N] with N = 9, got 10"),
        (lambda x: ops.divprune(x.double(), 1), "divprune: expected x to be float16, bfloat16 or float32, got float64"),
        (lambda x: ops.mmr(x, x, 1), "mmr: expected relevance to have shape [9] (x without its last dimension)"),
        (lambda x: ops.mmr(x, x[:, 0], 1, 2.0), "mmr: expected lam to be in [0, 1], got 2"),
    ],
)
def test_errors_while_compiling_name_the_argument_and_the_rule(call, message):
    with pytest.raises(Exception) as raised:  # noqa: PT011 - dynamo wraps errors in types of its own
        torch.compile(call, fullgraph=True, backend="eager")(gaussian_tokens(9, 6))
    assert message in str(raised.value)


@pytest.mark.parametrize("k", [-1, 10])
def test_errors_of_symbolic_sizes_name_the_argument_and_the_rule(k):
    compiled = torch.compile(lambda x, k: ops.divprune(x, k), fullgraph=True, backend="eager", dynamic=True)
    compiled(gaussian_tokens(9, 6), 5)
    with pytest.raises(Exception, match=r"divprune: expected k to be in \[0, N\]"):
        compiled(gaussian_tokens(9, 6), k)
