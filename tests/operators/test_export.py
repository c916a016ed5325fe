"""Exported programs whose number of tokens stays free, saved and loaded."""

import io

import pytest
import torch

import tokenprune_kernels as tokenprune
from tests.operators.test_arguments import RATIOS
from tests.support.inputs import gaussian_tokens
from tokenprune_kernels.calls import kept_count

COUNTS = (1, 2, 4, 5, 14, 15, 16, 25, 35, 100, 333)


class Ratio(torch.nn.Module):
    def forward(self, x):
        return tokenprune.divprune(x, keep_ratio=0.1)


class Pruned(torch.nn.Module):
    def forward(self, x):
        return tokenprune.prune(x, keep_ratio=0.1)[0]


class Share(torch.nn.Module):
    def forward(self, x):
        return torch.ops.tokenprune.divprune(x, x.shape[-2] // 10)


class Counts(torch.nn.Module):
    """What every ratio keeps, in one graph."""

    def forward(self, x):
        return [kept_count("prune", x.shape[0], ratio) for ratio in RATIOS]


def exported(module, x, count, strict=False):
    """The program after a journey through a file."""
    shapes = ({x.dim() - 2: count},)
    file = io.BytesIO()
    torch.export.save(torch.export.export(module, (x,), dynamic_shapes=shapes, strict=strict), file)
    file.seek(0)
    return torch.export.load(file).module()


@pytest.mark.parametrize("strict", [False, True], ids=["loose", "strict"])
@pytest.mark.parametrize("count", ["named", "auto"])
@pytest.mark.parametrize("module", [Ratio(), Pruned(), Share()], ids=lambda module: type(module).__name__)
def test_any_number_of_tokens_from_one_on(module, count, strict):
    dimension = torch.export.Dim("n", min=1) if count == "named" else torch.export.Dim.AUTO
    program = exported(module, gaussian_tokens(57, 8), dimension, strict)
    for n in COUNTS:
        assert torch.equal(program(x := gaussian_tokens(n, 8)), module(x))


def test_a_batch_with_any_number_of_tokens():
    program = exported(Ratio(), gaussian_tokens(3, 57, 8), torch.export.Dim("n", min=1))
    for n in COUNTS:
        assert torch.equal(program(x := gaussian_tokens(3, n, 8)), Ratio()(x))


@pytest.mark.slow
def test_ten_ratios_are_rounded_as_without_export():
    program = exported(Counts(), torch.empty(57, 1), torch.export.Dim("n", min=1))
    for n in (*range(1, 200), 12345, 2**20 - 1, 2**20):
        assert program(torch.empty(1, 1).expand(n, 1)) == [min(n, max(1, round(ratio * n))) for ratio in RATIOS]


@pytest.mark.slow
def test_a_compiled_ratio_serves_every_number_of_tokens():
    compiled = torch.compile(Ratio(), fullgraph=True, dynamic=True)
    for n in (57, *COUNTS):
        assert torch.equal(compiled(x := gaussian_tokens(n, 8)), Ratio()(x))


def test_a_wrong_number_of_rows_is_refused_when_the_program_runs():
    class Twice(torch.nn.Module):
        def forward(self, x):
            return torch.ops.tokenprune.divprune(x, x.shape[0] * 2 - 10)

    program = exported(Twice(), gaussian_tokens(8, 4), torch.export.Dim("n", min=1))
    assert len(program(gaussian_tokens(9, 4))) == 8
    with pytest.raises(ValueError, match=r"divprune: expected k to be in \[0, N\] with N = 12, got 14"):
        program(gaussian_tokens(12, 4))


@pytest.mark.slow
def test_ahead_of_time_inductor(tmp_path):
    shapes = ({0: torch.export.Dim("n", min=2)},)
    program = torch.export.export(Ratio(), (gaussian_tokens(57, 8),), dynamic_shapes=shapes)
    path = torch._inductor.aoti_compile_and_package(program, package_path=str(tmp_path / "ratio.pt2"))
    run = torch._inductor.aoti_load_package(path)
    for n in COUNTS[1:]:
        assert torch.equal(run(x := gaussian_tokens(n, 8)), Ratio()(x))
