"""The benchmark's inputs and cases; in their full size, through the float64 replay."""

import pytest
import torch

pytest.importorskip("bench", reason="the benchmarks are only in the source tree")

from bench import cases, inputs, peers
from bench.peers import OPERATOR
from tokenprune_kernels.methods import METHODS
from tokenprune_kernels.verify import verify_trace

JUDGED = [case for case in cases.cpu_cases() if case.tokens.longest <= 6_400 and case.tokens.layout == inputs.SINGLE]


@pytest.mark.parametrize(
    ("make", "argument", "shape"),
    [
        (inputs.photograph, ("motorcycle", 4), (16,)),
        (inputs.video, (3,), (432,)),
        (inputs.crops, (), (2, 36)),
        (inputs.clustered, (70,), (70,)),
        (inputs.noise, (70,), (70,)),
        (inputs.duplicates, (70,), (70,)),
    ],
)
def test_inputs_are_finite_seeded_and_of_their_size(make, argument, shape, monkeypatch):
    pytest.importorskip("skimage")
    monkeypatch.setattr(inputs, "BATCH_ITEMS", 2)
    monkeypatch.setattr(inputs, "BATCH_SIDE", 6)
    tokens = make(*argument)
    x = tokens.make("cpu")
    assert x.shape == (*shape, inputs.DIMENSIONS)
    assert x.dtype == torch.float32
    assert x.isfinite().all()
    assert tokens.counts == (shape[-1],) * (1 if len(shape) == 1 else shape[0])
    assert torch.equal(x, tokens.make("cpu"))
    assert max(tokens.ks) < len(x.flatten(0, -2).unique(dim=0))


def test_frames_and_crops_are_tokens_of_their_own(monkeypatch):
    pytest.importorskip("skimage")
    frames = inputs.video(2).make("cpu")
    assert torch.equal(frames[:144], inputs.video(1).make("cpu"))
    assert not torch.equal(frames[:144], frames[144:])


def test_sizes_are_told_in_words():
    assert inputs.noise(1_000).size == "1,000, k = 100"
    batch = inputs.clustered(576, 576, ks=(58, 58), layout=inputs.BATCH)
    assert batch.size == "2 x 576, k = 58"
    assert inputs.clustered(576, ks=(192,), depth=5_120).size == "576 x 5,120, k = 192"
    packed = inputs.clustered(10, 2_000, depth=64, layout=inputs.PACKED)
    assert packed.size == "2 packed of 10 to 2,000 x 64, k = 10 %"


@pytest.mark.parametrize(
    ("everything", "quick", "known"),
    [
        (cases.cpu_cases, cases.quick_cpu_cases, peers.CPU_PEERS),
        (cases.cuda_cases, cases.quick_cuda_cases, peers.CUDA_PEERS),
    ],
    ids=["cpu", "cuda"],
)
def test_every_case_is_there_once_and_has_a_peer(everything, quick, known):
    made = everything()
    assert len(made) == len(set(made)) == len({str(case) for case in made})
    assert set(quick()) <= set(made)
    assert {case.method for case in quick()} == set(METHODS)
    for case in made:
        assert OPERATOR.applies(case)
        usable = [peer for peer in known if peer.applies(case) and not peer.compiled and peer.selects]
        assert any(not peer.module and not peer.left_out(case) for peer in usable) or case.method == "mmr"


@pytest.mark.slow
@pytest.mark.parametrize("case", JUDGED, ids=str)
def test_the_selection_is_right(threads, case):
    given = cases.task(case)
    arguments = METHODS[case.method].arguments(given.x, given.weight, (given.k,), cases.LAM)
    operator = getattr(torch.ops.tokenprune, case.method).scores
    indices, scores = operator(*arguments)
    trace = verify_trace(case.method, given.x, indices, given.weight, cases.LAM, scores)
    assert trace, trace
    threads(1)
    for mine, theirs in zip(operator(*arguments), (indices, scores), strict=True):
        assert torch.equal(mine, theirs)


@pytest.mark.parametrize("depth", [24, 40])
def test_trained_tokens_are_the_towers(depth, monkeypatch):
    pytest.importorskip("transformers")
    settings = pytest.importorskip("bench.accuracy.settings")
    monkeypatch.setattr(settings, "FULL", settings.TINY)
    tokens = inputs.trained("astronaut", 4, depth)
    x = tokens.make("cpu")
    assert x.shape == (16, depth)
    assert torch.equal(x, tokens.make("cpu"))
    assert int(torch.linalg.matrix_rank(x)) == 16


def test_cases_of_the_trained_tower_come_first_where_it_is_installed(monkeypatch):
    monkeypatch.setattr(inputs, "has_tower", lambda: True)
    first = cases.cpu_cases()[0].tokens
    assert (first.kind, first.depth, first.counts) == ("trained tower", 384, (576,))
    monkeypatch.setattr(inputs, "has_tower", lambda: False)
    assert "trained tower" not in {case.tokens.kind for case in cases.cpu_cases()}


def test_no_two_cases_have_one_name(monkeypatch):
    """A case whose name has begun is left out."""
    monkeypatch.setattr(inputs, "has_tower", lambda: True)
    names = [str(case) for case in cases.cpu_cases()]
    assert len(set(names)) == len(names)
