"""The operators on DTensors, on a mesh of one process."""

import pytest
import torch
import torch.distributed

import tokenprune_kernels as tokenprune
from tests.support.inputs import METHODS, gaussian_tokens, random_weight
from tokenprune_kernels import sharding

tensor = pytest.importorskip("torch.distributed.tensor")
if not torch.distributed.is_available():
    pytest.skip("needs torch.distributed", allow_module_level=True)


@pytest.fixture(scope="module")
def mesh(tmp_path_factory):
    store = torch.distributed.FileStore(str(tmp_path_factory.mktemp("store") / "file"), 1)
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    sharding.register()
    yield torch.distributed.init_device_mesh("cpu", (1,))
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize("overload", ["default", "scores"])
@pytest.mark.parametrize("method", METHODS)
def test_a_sharded_batch_stays_sharded_and_rows_are_gathered(mesh, method, overload):
    x, weight = gaussian_tokens(2, 4, 20, 8), random_weight(2, 4, 20)
    operator = getattr(getattr(torch.ops.tokenprune, method), overload)
    expected = operator(*((x,) if method == "divprune" else (x, weight)), 5)
    replicate = tensor.Replicate()
    for placement, result in (
        (replicate, replicate),
        (tensor.Shard(0), tensor.Shard(0)),
        (tensor.Shard(1), tensor.Shard(1)),
        (tensor.Shard(2), replicate),
        (tensor.Shard(3), replicate),
    ):
        given = [tensor.distribute_tensor(x, mesh, [placement])]
        if method != "divprune":
            of_weight = replicate if placement == tensor.Shard(3) else placement
            given.append(tensor.distribute_tensor(weight, mesh, [of_weight]))
        results = operator(*given, 5)
        for mine, other in zip(
            *((each,) if overload == "default" else each for each in (results, expected)), strict=True
        ):
            assert mine.placements == (result,)
            assert torch.equal(mine.full_tensor(), other)


def test_initial_rows_are_sharded_as_their_items(mesh):
    x, initial = gaussian_tokens(2, 4, 20, 8), torch.arange(3).expand(2, 4, 3).contiguous()
    expected = tokenprune.divprune(x, 5, initial=initial)
    for placement in (tensor.Replicate(), tensor.Shard(0), tensor.Shard(1)):
        given = (tensor.distribute_tensor(each, mesh, [placement]) for each in (x, initial))
        result = torch.ops.tokenprune.divprune(next(given), 5, next(given))
        assert result.placements == (placement,)
        assert torch.equal(result.full_tensor(), expected)


def test_packed_tokens_are_gathered(mesh):
    x, sums, kept = gaussian_tokens(9, 4), torch.tensor([0, 4, 9]).int(), torch.tensor([0, 2, 4]).int()
    given = [tensor.distribute_tensor(each, mesh, [tensor.Shard(0)]) for each in (x, sums, kept)]
    result = torch.ops.tokenprune.divprune_varlen(*given, 4, 5)
    assert result.placements == (tensor.Replicate(),)
    assert torch.equal(result.full_tensor(), tokenprune.divprune_varlen(x, sums, kept))
