"""The wrap that stands in for ``mm_encoder_outputs`` in older transformers: what it answers, and for how long."""

import gc
import inspect

import pytest
import torch

from tests.support.vision_language import TAKES_ENCODER_OUTPUTS, batch, model_of
from tokenprune_kernels.integrations.transformers import hand_over, prune_inputs

PRUNING = {"keep_ratio": 0.3}


@pytest.fixture(autouse=True)
def wrapped(monkeypatch):
    monkeypatch.setattr(hand_over, "takes_encoder_outputs", lambda model: False)


@torch.no_grad()
def test_the_wrap_lasts_as_long_as_the_pruned_inputs():
    model, inputs = model_of("llava_next_video"), batch("llava_next_video", "tIt", "tVt")
    inner = model.model
    first, second = prune_inputs(model, inputs, **PRUNING), prune_inputs(model, inputs, keep_ratio=0.5)
    assert {"get_image_features", "get_video_features"} <= vars(inner).keys()
    assert next(iter(inspect.signature(inner.get_image_features).parameters)) == "pixel_values"
    expected = model(**second).logits
    del first
    gc.collect()
    assert torch.equal(model(**second).logits, expected)
    del second
    gc.collect()
    assert not {"get_image_features", "get_video_features"} & vars(inner).keys()


@torch.no_grad()
def test_several_pruned_inputs_live_beside_each_other_and_beside_pixels():
    model, inputs = model_of("llava"), batch("llava", "ttItt", "tIt")
    whole = model(**inputs).logits
    few, many = prune_inputs(model, inputs, k=2), prune_inputs(model, inputs, k=9)
    logits = [model(**pruned).logits for pruned in (few, many)]
    assert torch.equal(model(**inputs).logits, whole)
    for again, expected in zip((few, many), logits, strict=True):
        assert torch.equal(model(**again).logits, expected)
    assert few["input_ids"].shape != many["input_ids"].shape


def test_an_encoder_that_was_replaced_before_comes_back():
    model, inputs = model_of("llava"), batch("llava", "ttItt")
    calls = []
    own = model.model.get_image_features

    def replaced(pixel_values, **options):
        calls.append(pixel_values)
        return own(pixel_values, **options)

    model.model.get_image_features = replaced
    try:
        pruned = prune_inputs(model, inputs, **PRUNING)
        model(**pruned)
        assert len(calls) == 1
        del pruned
        gc.collect()
        assert model.model.get_image_features is replaced
    finally:
        del model.model.get_image_features


def test_numbers_keep_their_groups_through_repetition():
    model, inputs = model_of("llava"), batch("llava", "tIt", "ttt", "tIt")
    numbers = prune_inputs(model, inputs, k=3)["pixel_values"]
    repeated = numbers.repeat_interleave(2, dim=0)
    assert repeated.tolist() == [0, 0, 1, 1, 2, 2]
    parts = [part.repeat(2) for part in torch.split(numbers, [1, 2])]
    for made in (repeated, torch.cat(parts), torch.cat(tensors=parts), repeated.to("cpu", copy=True)):
        tokens = model.model.get_image_features(pixel_values=made).pooler_output
        assert sum(len(group) for group in tokens) == 12


@pytest.mark.skipif(not TAKES_ENCODER_OUTPUTS, reason="older transformers have the wrap alone")
@pytest.mark.parametrize("family", ["llava", "qwen3_vl"])
@torch.no_grad()
def test_both_ways_give_the_same_logits(family, monkeypatch):
    model, inputs = model_of(family), batch(family, "ttItit", "tItt", "tt")
    wrapped = model(**prune_inputs(model, inputs, **PRUNING)).logits
    monkeypatch.undo()
    pruned = prune_inputs(model, inputs, **PRUNING)
    assert "mm_encoder_outputs" in pruned
    assert torch.equal(model(**pruned).logits, wrapped)
