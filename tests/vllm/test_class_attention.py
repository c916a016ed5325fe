"""The attention of the class token, recorded from a tower without an engine."""

import pytest

pytest.importorskip("vllm")

import torch
from vllm.model_executor.layers.attention import MMEncoderAttention

from tokenprune_kernels.integrations.class_token import class_token_attention
from tokenprune_kernels.integrations.vllm import class_attention
from tokenprune_kernels.integrations.vllm.item import Item

pytestmark = pytest.mark.vllm
HEADS, WIDTH, TOKENS = 2, 8, 5


class Layer(MMEncoderAttention):
    """A layer that is given its queries and keys."""

    def __init__(self):
        torch.nn.Module.__init__(self)
        self.num_heads, self.scale = HEADS, 0.5

    def forward(self, queries, keys, values):
        return values


class Model(class_attention.ClassAttention):
    tower = "vision_tower"

    def __init__(self):
        self.vision_tower = torch.nn.Sequential(Layer())

    def _attention_of_items(self, attention, kwargs):
        return list(attention[:, 1:])


@pytest.fixture(autouse=True)
def one_rank(monkeypatch):
    monkeypatch.setattr(class_attention, "tensor_model_parallel_all_reduce", lambda attention: attention)
    monkeypatch.setattr(class_attention, "get_tensor_model_parallel_world_size", lambda: 1)


def states(tiles, seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(2, tiles, TOKENS, WIDTH, generator=generator)


def item(number, kept=2, weight="cls_attention"):
    return Item(bytes([number]) * 16, "idpruner", weight, None, (TOKENS - 1,), (kept,))


@pytest.mark.parametrize("calls", [[3], [1, 2], [1, 1, 1]])
def test_the_tower_may_run_several_times(calls):
    model = Model()
    layer = model.vision_tower[0]
    given = [states(tiles, seed) for seed, tiles in enumerate(calls)]
    with model._class_attention([item(number) for number in range(3)]) as attended:
        for queries, keys in given:
            layer(queries, keys, keys)
        attention = attended({})
    queries, keys = torch.cat(given, dim=1)
    assert torch.equal(torch.stack(list(attention)), class_token_attention(queries, keys, HEADS, 0.5)[:, 1:])
    assert not layer._forward_pre_hooks


def test_a_tower_that_does_not_run_is_an_error():
    message = "expected the vision tower to run for 'cls_attention', got no call"
    with Model()._class_attention([item(0)]) as attended, pytest.raises(RuntimeError, match=message):
        attended({})


def test_nothing_is_recorded_where_no_item_needs_it():
    model = Model()
    with model._class_attention([item(0, kept=TOKENS - 1), item(1, weight="norm")]) as attended:
        assert not model.vision_tower[0]._forward_pre_hooks
        assert attended({}) == []
