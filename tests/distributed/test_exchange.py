"""By which device a collective goes, where a process group sends tensors of some devices alone."""

import pytest
import torch
import torch.distributed as dist

from tokenprune_kernels.distributed.exchange import Exchange


class SentError(Exception):
    """Holds the device of a tensor that is about to be sent."""


@pytest.mark.parametrize("collective", ["gather", "maximum"])
@pytest.mark.parametrize(
    ("config", "near", "lies_on", "goes_by"),
    [
        ("cpu:gloo,cuda:gloo", "cpu", "cpu", "cpu"),
        ("cpu:gloo,meta:nccl", "meta", "cpu", "cpu"),
        ("cpu:gloo,meta:nccl", "meta", "meta", "meta"),
        ("cpu:gloo", "meta", "meta", "cpu"),
        ("meta:nccl", "meta", "cpu", "meta"),
        ("meta:nccl", "cpu", "cpu", "meta"),
        ("meta:nccl", None, "cpu", "meta"),
    ],
)
def test_a_tensor_goes_by_a_device_whose_tensors_the_group_sends(
    monkeypatch, collective, config, near, lies_on, goes_by
):
    def send(*arguments, group):
        raise SentError(next(each for each in arguments if isinstance(each, torch.Tensor)).device.type)

    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(dist, "get_rank", lambda group: 0)
    monkeypatch.setattr(dist, "get_world_size", lambda group: 2)
    monkeypatch.setattr(dist, "get_backend_config", lambda group: config)
    monkeypatch.setattr(dist, "all_gather", send)
    monkeypatch.setattr(dist, "all_reduce", send)
    # What goes from meta to the CPU has no values, but a device.
    monkeypatch.setattr(torch.Tensor, "to", lambda tensor, device: torch.empty_like(tensor, device=device))
    exchange = Exchange(None, None if near is None else torch.device(near))
    with pytest.raises(SentError, match=goes_by):
        getattr(exchange, collective)(torch.zeros(3, device=lies_on))


def test_a_process_that_does_not_belong_to_the_group_is_told_so(monkeypatch):
    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(dist, "get_rank", lambda group: -1)
    monkeypatch.setattr(dist, "get_world_size", lambda group: -1)
    with pytest.raises(ValueError, match="expected a group that this process belongs to, got one that it does not"):
        Exchange(None)


def test_a_maximum_leaves_its_argument_as_it_is(monkeypatch):
    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(dist, "get_rank", lambda group: 0)
    monkeypatch.setattr(dist, "get_world_size", lambda group: 2)
    monkeypatch.setattr(dist, "get_backend_config", lambda group: "cpu:gloo")
    monkeypatch.setattr(dist, "all_reduce", lambda sent, operation, group: sent.fill_(7.0))
    mine = torch.zeros(3)
    assert Exchange(None).maximum(mine).tolist() == [7.0] * 3
    assert mine.tolist() == [0.0] * 3
