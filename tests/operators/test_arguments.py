"""Numbers and tensors of other types: those that are exact are taken, the others are refused in plain words."""

import fractions
import re

import numpy
import pytest
import torch

import tokenprune_kernels as tokenprune
from tests.support.inputs import METHODS, gaussian_tokens, random_weight
from tokenprune_kernels import baselines, importance, metrics
from tokenprune_kernels.calls import kept_count

X, W = gaussian_tokens(9, 4), random_weight(9)


def call(method, x=X, weight=W, **given):
    return getattr(tokenprune, method)(x, *(() if method == "divprune" else (weight,)), **given)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    "k",
    [
        4.0,
        numpy.int64(4),
        numpy.uint8(4),
        numpy.float64(4),
        numpy.float32(4),
        fractions.Fraction(4),
        torch.tensor(4),
        torch.tensor(4.0),
        torch.tensor(4, dtype=torch.uint8),
        numpy.array(4),
    ],
    ids=repr,
)
def test_numbers_that_are_integers_are_taken(method, k):
    if isinstance(k, numpy.ndarray):
        k = k[()]
    assert torch.equal(call(method, k=k), call(method, k=4))
    assert torch.equal(tokenprune.prune(X, k)[1], tokenprune.prune(X, 4)[1])
    assert torch.equal(baselines.top_k(W, k), baselines.top_k(W, 4))


@pytest.mark.parametrize(
    ("k", "got"),
    [
        (True, "True"),
        (numpy.bool_(True), "np.True_"),
        (torch.tensor(True), "tensor(True)"),
        (2.5, "2.5"),
        (torch.tensor(2.7), "tensor(2.7000)"),
        (torch.tensor([2]), "a tensor of shape [1]"),
        ("2", "'2'"),
        (float("nan"), "nan"),
        (float("inf"), "inf"),
        (2 + 0j, "(2+0j)"),
        ([2], "[2]"),
    ],
    ids=repr,
)
def test_other_numbers_are_refused(k, got):
    for name, function in (
        ("divprune", lambda: tokenprune.divprune(X, k)),
        ("mmr", lambda: tokenprune.prune(X, k, method="mmr", relevance=W)),
        ("top_k", lambda: baselines.top_k(W, k)),
        ("random", lambda: baselines.random(9, k)),
    ):
        with pytest.raises(TypeError, match=f"^{re.escape(f'{name}: expected k to be an integer, got {got}')}$"):
            function()


@pytest.mark.parametrize("k", [10, 10**20])
def test_more_rows_than_there_are_say_what_keeps_all(k):
    message = rf"^divprune: expected k to be in \[0, N\] with N = 9, got {k} \(min\(k, N\) keeps all\)$"
    with pytest.raises(ValueError, match=message):
        tokenprune.divprune(X, k)
    with pytest.raises(ValueError, match=r"got -100000000000000000000$"):
        tokenprune.divprune(X, -(10**20))


def test_ratios_and_lam_may_be_of_any_type():
    for half in (
        numpy.float32(0.5),
        numpy.float64(0.5),
        numpy.float16(0.5),
        torch.tensor(0.5),
        fractions.Fraction(1, 2),
    ):
        assert torch.equal(tokenprune.divprune(X, keep_ratio=half), tokenprune.divprune(X, keep_ratio=0.5))
        assert torch.equal(tokenprune.mmr(X, W, 5, lam=half), tokenprune.mmr(X, W, 5, lam=0.5))
    for wrong in ("0.5", True, None, torch.tensor([0.5])):
        with pytest.raises(TypeError, match=r"^mmr: expected lam to be a number, got "):
            tokenprune.mmr(X, W, 5, lam=wrong)
    with pytest.raises(TypeError, match=r"^divprune: expected keep_ratio to be a number, got True$"):
        tokenprune.divprune(X, keep_ratio=True)


@pytest.mark.parametrize(
    ("wrong", "got"),
    [
        (lambda tensor: tensor.numpy(), "ndarray (torch.from_numpy makes one)"),
        (lambda tensor: tensor.tolist(), "list (torch.tensor makes one)"),
        (lambda tensor: tuple(tensor.tolist()), "tuple (torch.tensor makes one)"),
        (lambda tensor: 3, "int"),
    ],
    ids=["array", "list", "tuple", "int"],
)
def test_arrays_and_lists_are_refused_by_name(wrong, got):
    sums, kept = torch.tensor([0, 4, 9], dtype=torch.int32), torch.tensor([0, 2, 4], dtype=torch.int32)
    for name, argument, function in (
        ("divprune", "x", lambda: tokenprune.divprune(wrong(X), 2)),
        ("divprune", "x", lambda: tokenprune.prune(wrong(X), keep_ratio=0.5)),
        ("mmr", "relevance", lambda: tokenprune.mmr(X, wrong(W), 2)),
        ("divprune_varlen", "cu_seqlens", lambda: tokenprune.divprune_varlen(X, wrong(sums), kept)),
        ("divprune_varlen", "cu_k", lambda: tokenprune.divprune_varlen(X, sums, wrong(kept))),
        ("norm", "x", lambda: importance.norm(wrong(X))),
        ("hopkins", "tokens", lambda: metrics.hopkins(wrong(X))),
        ("coverage", "kept", lambda: metrics.coverage(X, wrong(kept))),
        ("mixture", "importance", lambda: baselines.mixture(X, wrong(W), 2)),
        ("merge", "attention", lambda: baselines.merge(X, wrong(W), kept.long())),
    ):
        expected = f"{name}: expected {argument} to be a tensor, got {got}"
        with pytest.raises(TypeError, match=f"^{re.escape(expected)}$"):
            function()


def test_other_layouts_say_what_to_do():
    jagged = torch.nested.nested_tensor([X[:4], X[4:]], layout=torch.jagged)
    with pytest.raises(
        TypeError, match=r"^divprune: expected x to be a dense tensor, got a nested one \(the varlen op"
    ):
        tokenprune.divprune(jagged, keep_ratio=0.5)
    varlen = tokenprune.divprune_varlen(jagged.values(), jagged.offsets().int(), torch.tensor([0, 2, 4]).int())
    assert varlen.tolist() == [*tokenprune.divprune(X[:4], 2), *(tokenprune.divprune(X[4:], 2) + 4)]
    for sparse in (X.to_sparse(), X.to_sparse_csr(), X.to_mkldnn()):
        with pytest.raises(
            TypeError, match=r"^divprune: expected x to be a dense tensor, got layout torch.* makes one\)"
        ):
            tokenprune.divprune(sparse, 2)
    assert torch.equal(tokenprune.divprune(X.to_sparse().to_dense(), 2), tokenprune.divprune(X, 2))


def test_numbers_are_taken_while_compiling_too():
    for k in (4, 4.0, numpy.int64(4), True, 2.5):
        compiled = torch.compile(lambda x, k=k: tokenprune.divprune(x, k), backend="eager")
        if isinstance(k, bool) or k == 2.5:
            with pytest.raises(Exception, match="expected k to be an integer"):
                compiled(X)
        else:
            assert torch.equal(compiled(X), tokenprune.divprune(X, 4))


RATIOS = (0.05, 0.1, 0.15, 0.2, 0.25, 1 / 3, 0.35, 0.5, 0.9, 1.0)


@pytest.mark.parametrize("ratio", RATIOS)
def test_a_ratio_is_rounded_half_to_even_for_every_count(ratio):
    """Against torch.round, which rounds halves to even as Python does, for all N up to 2^20."""
    counts = torch.arange(1, 2**20 + 1, dtype=torch.float64)
    expected = torch.minimum(counts, (ratio * counts).round().clamp_min(1)).long()
    some = [*range(1, 400), *range(10**5, 10**5 + 100), 2**20 - 1, 2**20]
    assert [kept_count("prune", count, ratio) for count in some] == expected[torch.tensor(some) - 1].tolist()
    assert expected[:400].tolist() == [min(n, max(1, round(ratio * n))) for n in range(1, 401)]
