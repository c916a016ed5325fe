"""The optimizer of the decoder's matrices, beside torch's, which rounds to bfloat16."""

import pytest
import torch

pytest.importorskip("bench.accuracy", reason="needs the source tree")

from bench.accuracy.muon import Muon, orthogonal

SHAPES = ((24, 24), (24, 24), (40, 24), (24, 40))


@pytest.mark.parametrize("shape", [(3, 24, 40), (16, 40), (40, 16)])
def test_singular_values_come_near_one(shape):
    found = orthogonal(torch.randn(shape, generator=torch.Generator().manual_seed(0)))
    values = torch.linalg.svdvals(found)
    assert float(values.min()) > 0.3
    assert float(values.max()) < 1.3


def test_its_steps_are_those_of_torch():
    generator = torch.Generator().manual_seed(1)
    ours = [torch.nn.Parameter(torch.randn(shape, generator=generator)) for shape in SHAPES]
    theirs = [torch.nn.Parameter(each.detach().clone()) for each in ours]
    start = [each.detach().clone() for each in ours]
    muon = Muon(ours, 0.02)
    peer = torch.optim.Muon(theirs, weight_decay=0.02, adjust_lr_fn="match_rms_adamw")
    for optimizer in (muon, peer):
        for group in optimizer.param_groups:
            group["lr"] = 1e-2
    for _ in range(4):
        for a, b in zip(ours, theirs, strict=True):
            a.grad = torch.randn(a.shape, generator=generator)
            b.grad = a.grad.clone()
        muon.step()
        peer.step()
    for a, b, before in zip(ours, theirs, start, strict=True):
        moved = float((b - before).detach().norm())
        assert float((a - b).detach().norm()) < 0.03 * moved
