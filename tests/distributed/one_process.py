"""Compares a selection over several processes with that of one process, on any backend."""

import itertools

import torch

import tokenprune_kernels
from tests.distributed.ranks import everywhere
from tokenprune_kernels import distributed
from tokenprune_kernels.methods import METHODS

SELECTORS = ("divprune", "mmr", "idpruner")


def select(method, x, weight, k, lam, initial=None, backend="native", device="cpu"):
    """What a rank does: its picks, their scores, its own picks, and the collectives that it took."""
    x, weight = x.to(device), weight.to(device)
    initial = None if initial is None else initial.to(device)
    arguments = METHODS[method].arguments(x, weight, (k,), lam)
    with tokenprune_kernels.use_backend(backend):
        found = getattr(distributed, method)(*arguments, initial=initial)
    assert found.indices.device == found.scores.device == found.local().device == x.device
    return found.indices.cpu(), found.scores.cpu(), found.local().cpu(), found.collectives


def expected_of(method, x, weight, k, lam, initial=None, backend="native", device="cpu"):
    operator = getattr(torch.ops.tokenprune, method)
    arguments = METHODS[method].arguments(x.to(device), weight.to(device), (k,), lam, initial)
    with tokenprune_kernels.use_backend(backend):
        return tuple(made.cpu() for made in operator.scores(*arguments))


def check(ranks, method, x, weight, k, lam, cuts, initial=None, expected=None, place=("native", "cpu")):
    """Compares every rank with one process, or with what is expected. Returns how many collectives there were."""
    indices, scores = expected or expected_of(method, x, weight, k, lam, initial, *place)
    bounds = [0, *sorted(cuts), len(x)]
    pieces = list(itertools.pairwise(bounds))
    shards = [x[begin:end].clone() for begin, end in pieces]
    weights = [weight[begin:end].clone() for begin, end in pieces]
    same = ([each] * len(pieces) for each in (k, lam, initial, *place))
    answers = everywhere(ranks, select, [method] * len(pieces), shards, weights, *same)
    for (begin, end), answer in zip(pieces, answers, strict=True):
        assert not isinstance(answer, Exception), answer
        found, won, local, _ = answer
        assert found.tolist() == indices.tolist()
        assert torch.equal(won.view(torch.int32), scores.view(torch.int32))
        assert local.tolist() == [index - begin for index in indices.tolist() if begin <= index < end]
    assert len({answer[3] for answer in answers}) == 1
    return answers[0][3]


def even_cuts(ranks, count):
    return [] if ranks is None else [count * rank // ranks.size for rank in range(1, ranks.size)]
