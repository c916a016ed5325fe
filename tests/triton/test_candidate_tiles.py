"""The tiles of the candidates' Gram matrix that a lazy greedy round works on, in the interpreter."""

import pytest
import torch

from tests.support.inputs import gaussian_tokens, ops, random_weight

interpreter = pytest.importorskip("triton.runtime.interpreter", reason="the Triton backend needs triton")

from tokenprune_kernels.backends.triton import kernels, operators, runtime  # noqa: E402
from tokenprune_kernels.backends.triton.kernels import state  # noqa: E402

pytestmark = [
    pytest.mark.interpret,
    pytest.mark.parametrize("backend", [pytest.param(("triton", "cpu"), id="triton")], indirect=True),
]


def test_tiles_without_candidates_read_nothing_that_changes(backend, monkeypatch):
    # Nothing waits for such a tile. Its threads could read PICKS while the program that picks writes it.
    x, weight = gaussian_tokens(30, 8, dtype=torch.bfloat16), random_weight(30)
    reads, rounds, place = [], [], []
    launch, load = runtime.launch, interpreter.InterpreterBuilder.create_masked_load

    def launched(kernel, programs, tensors, *rest, **options):
        if "state" in tensors:
            place[:] = [tensors["state"].data_ptr() + 4 * state.PICKS.value]
        return launch(kernel, programs, tensors, *rest, **options)

    def loaded(self, pointers, mask, *rest):
        read = pointers.data[mask.data.astype(bool)]
        reads.extend(address for address in read.reshape(-1) if place and address == place[0])
        return load(self, pointers, mask, *rest)

    choose = kernels.lazy_greedy.choose_candidates

    def chosen(*given):
        rounds.append(1)
        return choose(*given)

    monkeypatch.setattr(runtime, "launch", launched)
    monkeypatch.setattr(interpreter.InterpreterBuilder, "create_masked_load", loaded)
    monkeypatch.setattr(kernels.lazy_greedy, "choose_candidates", chosen)
    with runtime.settings(form="lazy_greedy", max_candidates=4):
        planned = operators.plan("mmr", x.shape, x.dtype)
        assert planned.kernels[-1] == "lazy_greedy_kernel"
        ops.mmr(x, weight, 8)
    assert len(rounds) > 1
    # In each round one read as the rows are updated, one by the only tile that has candidates, one as it picks.
    assert len(reads) == 3 * len(rounds)
