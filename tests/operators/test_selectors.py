"""The Python API."""

import pytest
import torch

import tokenprune_kernels as tokenprune
from tests.support.inputs import METHODS, gaussian_tokens, ops, random_weight
from tests.support.varlen import prefix_sums, varlen_arguments
from tokenprune_kernels import methods

INPUTS = {name: () if method.weight is None else (random_weight(3, 20),) for name, method in methods.METHODS.items()}
WEIGHT_NAME = {name: method.weight for name, method in methods.METHODS.items() if method.weight is not None}


@pytest.mark.parametrize("method", METHODS)
def test_a_function_is_its_operator(method):
    x = gaussian_tokens(3, 20, 8)
    function, operator = getattr(tokenprune, method), getattr(ops, method)
    indices = operator(x, *INPUTS[method], 7)
    assert torch.equal(function(x, *INPUTS[method], 7), indices)
    assert torch.equal(function(x, *INPUTS[method], 7, sorted=True), indices.sort().values)


@pytest.mark.parametrize("method", ["mmr", "idpruner"])
def test_lam_is_handed_on(method):
    x, weight = gaussian_tokens(30, 8), random_weight(30)
    function, operator = getattr(tokenprune, method), getattr(ops, method)
    for lam in (0.0, 0.3, 1.0):
        assert torch.equal(function(x, weight, 15, lam=lam), operator(x, weight, 15, lam))
    assert not torch.equal(function(x, weight, 15, lam=0.0), function(x, weight, 15, lam=1.0))


@pytest.mark.parametrize(
    ("count", "ratio", "k"),
    [(576, 0.1, 58), (5, 0.5, 2), (15, 0.1, 2), (25, 0.1, 2), (7, 0.5, 4), (9, 0.01, 1), (3, 1.0, 3), (0, 0.5, 0)],
)
def test_a_ratio_is_rounded_half_to_even_and_keeps_at_least_one(count, ratio, k):
    x = gaussian_tokens(count, 4)
    assert torch.equal(tokenprune.divprune(x, keep_ratio=ratio), tokenprune.divprune(x, k))


@pytest.mark.parametrize("method", METHODS)
def test_varlen_functions_find_their_capacities(method):
    x, weight = gaussian_tokens(40, 8), random_weight(40)
    sums, kept = prefix_sums(10, 0, 25), prefix_sums(4, 0, 11)
    arguments = varlen_arguments(method, x, weight, sums, kept, 15, 25)
    indices = getattr(ops, f"{method}_varlen")(*arguments)
    function = getattr(tokenprune, f"{method}_varlen")
    tensors = (x, sums, kept) if method == "divprune" else (x, weight, sums, kept)
    assert torch.equal(function(*tensors), indices)
    ascending = function(*tensors, 18, 30, sorted=True)
    assert torch.equal(ascending[:4], indices[:4].sort().values)
    assert torch.equal(ascending[4:15], indices[4:15].sort().values)
    assert ascending[15:].tolist() == [-1, -1, -1]


def test_varlen_function_without_segments():
    nothing = torch.zeros(1, dtype=torch.int32)
    assert tokenprune.divprune_varlen(torch.ones(3, 2), nothing, nothing).tolist() == []


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("ascending", [True, False])
def test_prune_returns_the_kept_tokens(method, ascending):
    x = gaussian_tokens(3, 20, 8).requires_grad_()
    weights = {WEIGHT_NAME[method]: INPUTS[method][0]} if method in WEIGHT_NAME else {}
    tokens, indices = tokenprune.prune(x, 6, method=method, sorted=ascending, **weights)
    expected = getattr(tokenprune, method)(x.detach(), *INPUTS[method], 6, sorted=ascending)
    assert torch.equal(indices, expected)
    for item in range(3):
        assert torch.equal(tokens[item], x[item][indices[item]])
    slope = gaussian_tokens(3, 6, 8, seed=1)
    (gradient,) = torch.autograd.grad((tokens * slope).sum(), x)
    for item in range(3):
        assert torch.equal(gradient[item][indices[item]], slope[item])
    assert (gradient != 0).sum() == slope.numel()


def test_prune_by_ratio():
    tokens, indices = tokenprune.prune(gaussian_tokens(50, 4), keep_ratio=0.1)
    assert tokens.shape == (5, 4)
    assert indices.tolist() == sorted(indices.tolist())


@pytest.mark.parametrize("method", METHODS)
def test_prune_of_a_packed_batch_drops_the_unused_slots(method):
    x, weight = gaussian_tokens(40, 8).requires_grad_(), random_weight(40)
    weights = {WEIGHT_NAME[method]: weight} if method in WEIGHT_NAME else {}
    sums, kept = prefix_sums(10, 0, 25), prefix_sums(4, 0, 11)
    tokens, indices = tokenprune.prune(
        x, method=method, cu_seqlens=sums, cu_k=kept, total_k=20, max_seqlen=30, **weights
    )
    assert tokens.shape == (15, 8)
    assert torch.equal(tokens, x[indices])
    expected = getattr(tokenprune, f"{method}_varlen")(x.detach(), *weights.values(), sums, kept, sorted=True)
    assert torch.equal(indices, expected)
    (gradient,) = torch.autograd.grad(tokens.sum(), x)
    assert gradient.sum() == 15 * 8


@pytest.mark.parametrize("method", ["mmr", "idpruner"])
def test_prune_hands_lam_on(method):
    x, weight = gaussian_tokens(40, 8), random_weight(40)
    sums, kept = prefix_sums(15, 25), prefix_sums(4, 11)
    weights = {WEIGHT_NAME[method]: weight}
    for lam in (0.0, 0.2, 1.0):
        _, indices = tokenprune.prune(x, 15, method=method, lam=lam, sorted=False, **weights)
        assert torch.equal(indices, getattr(ops, method)(x, weight, 15, lam))
        _, indices = tokenprune.prune(x, method=method, lam=lam, sorted=False, cu_seqlens=sums, cu_k=kept, **weights)
        assert torch.equal(indices, getattr(ops, f"{method}_varlen")(x, weight, sums, kept, 15, 25, lam))
    _, indices = tokenprune.prune(x, 15, method=method, sorted=False, **weights)
    assert torch.equal(indices, getattr(ops, method)(x, weight, 15, 0.5))
