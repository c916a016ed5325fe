"""What `prune_inputs` returns, handled as what a processor returns."""

import copy
import io
import pickle

import pytest
import torch

from tests.support.vision_language import FAMILIES, MROPE_FAMILIES, WITH_VIDEOS, batch, injected, model_of, own_features
from tokenprune_kernels.integrations.transformers import PrunedInputs, prune_inputs

PRUNING = {"keep_ratio": 0.3}


def tensors(pruned):
    values = {name: value for name, value in pruned.items() if isinstance(value, torch.Tensor)}
    for modality, output in pruned["mm_encoder_outputs"].items():
        values[modality] = output.pooler_output
        for number, layer in enumerate(getattr(output, "deepstack_features", None) or []):
            values[f"{modality} {number}"] = layer
    return {
        f"{name} {i}": each
        for name, value in values.items()
        for i, each in enumerate(value if isinstance(value, list | tuple) else [value])
    }


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_it_moves_with_its_features(family):
    model, inputs = model_of(family), batch(family, "ttItt", "tttt")
    pruned = prune_inputs(model, inputs, **PRUNING)
    expected = model(**pruned).logits
    assert pruned.input_ids is pruned["input_ids"]
    assert pruned.to(torch.bfloat16) is pruned
    moved = tensors(pruned)
    assert {each.dtype for each in moved.values() if each.is_floating_point()} == {torch.bfloat16}
    assert moved["input_ids 0"].dtype == torch.int64
    model16 = copy.deepcopy(model).bfloat16()
    torch.testing.assert_close(model16(**pruned).logits.float(), expected, atol=0.1, rtol=0.1)
    elsewhere = copy.copy(pruned).to("meta")
    assert all(each.is_meta for each in tensors(elsewhere).values())
    assert all(each.is_meta for each in (*elsewhere.kept_indices, elsewhere.kept_columns))
    assert not any(each.is_meta for each in tensors(pruned).values())
    both = prune_inputs(model, inputs, **PRUNING).to(device="meta", dtype=torch.float16)
    assert {each.dtype for each in tensors(both).values() if each.is_floating_point()} == {torch.float16}


def test_each_value_moves_by_itself():
    pruned = prune_inputs(model_of("qwen3_vl"), batch("qwen3_vl", "ttItt"), **PRUNING)
    moved = {name: value.to("meta") for name, value in pruned.items()}
    assert moved["mm_encoder_outputs"]["image"].pooler_output[0].is_meta
    assert moved["mm_encoder_outputs"]["image"].deepstack_features[0][0].is_meta


def test_names_that_are_not_there():
    pruned = PrunedInputs({"input_ids": torch.ones(1, 2)})
    with pytest.raises(AttributeError, match="expected one of input_ids, got 'pixel_values'"):
        _ = pruned.pixel_values
    assert not hasattr(pruned, "labels")
    assert torch.equal(copy.deepcopy(pruned).input_ids, pruned.input_ids)


@pytest.mark.parametrize("family", ["llava", "internvl", "qwen3_vl"])
@torch.no_grad()
def test_saved_and_loaded(family):
    model = model_of(family)
    pruned = prune_inputs(model, batch(family, "ttItt", "tt"), **PRUNING)
    expected = model(**pruned).logits
    file = io.BytesIO()
    torch.save(pruned, file)
    file.seek(0)
    for loaded in (torch.load(file, weights_only=True), pickle.loads(pickle.dumps(pruned)), copy.deepcopy(pruned)):
        assert torch.equal(model(**loaded).logits, expected)
        assert all(map(torch.equal, loaded.kept_indices, pruned.kept_indices))


def test_pinned_memory(monkeypatch):
    """A data loader calls it. Pinning itself needs an accelerator."""
    from torch.utils.data._utils.pin_memory import pin_memory

    pinned = []
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self, *_: pinned.append(self) or self.clone())
    pruned = prune_inputs(model_of("llava"), batch("llava", "ttItt"), **PRUNING)
    assert pin_memory(pruned) is pruned
    assert sum(each.is_floating_point() for each in pinned) == 1


@pytest.mark.parametrize("family", FAMILIES)
def test_it_says_which_tokens_and_columns_were_kept(family):
    rows = ("ttItIt", "tVtt" if family in WITH_VIDEOS else "tttt")
    model, inputs = model_of(family), batch(family, *rows)
    labels = inputs["input_ids"].masked_fill(inputs["attention_mask"] == 0, -100)
    pruned = prune_inputs(model, inputs | {"labels": labels}, **PRUNING)
    items = own_features(family, *rows)
    assert len(pruned.kept_indices) == len(pruned.grids) == len(items)
    kept = torch.cat([item.tokens[indices] for item, indices in zip(items, pruned.kept_indices, strict=True)])
    found = torch.cat([injected(pruned, modality) for modality in pruned["mm_encoder_outputs"]])
    torch.testing.assert_close(found, kept, atol=1e-5, rtol=1e-4)
    for grid, item in zip(pruned.grids, items, strict=True):
        assert grid is None or torch.Size(grid).numel() == len(item.tokens)
    known = family in ("llava", "pixtral", *MROPE_FAMILIES)
    assert family == "internvl" or all((grid is not None) == known for grid in pruned.grids)
    columns = pruned.kept_columns
    assert columns.shape == pruned.input_ids.shape
    there = columns >= 0
    assert torch.equal(there, pruned.attention_mask != 0)
    for name in ("input_ids", "labels"):
        assert torch.equal(inputs.get(name, labels).gather(1, columns.clamp_min(0))[there], pruned[name][there])


def test_the_grid_of_a_single_tile():
    model = model_of("internvl")
    assert prune_inputs(model, batch("internvl", "tit"), k=3).grids == [(1, 4, 4)]
    assert prune_inputs(model, batch("internvl", "tIt"), k=3).grids == [None]


def test_columns_number_the_whole_conversation():
    model, first, second = model_of("llava"), batch("llava", "ttItt"), batch("llava", "tIt")
    turn = prune_inputs(model, first, **PRUNING)
    output = model.generate(**turn, max_new_tokens=2, min_new_tokens=2, return_dict_in_generate=True)
    after = prune_inputs(model, turn.next_turn(output, second), **PRUNING)
    new = after.kept_columns[0][after.kept_columns[0] >= 0]
    start = first["input_ids"].shape[1] + 2
    assert new[0] == start
    assert torch.equal(second["input_ids"][0, new - start], after.input_ids[0, -len(new) :])


@torch.no_grad()
def test_a_copy_has_values_of_its_own():
    model, inputs = model_of("llava"), batch("llava", "ttItt")
    pruned = prune_inputs(model, inputs, **PRUNING)
    expected = model(**pruned).logits
    for made in (pruned.copy(), pruned | {"use_cache": False}):
        assert made.conversation is pruned.conversation
        assert made["mm_encoder_outputs"]["image"] is not made["mm_encoder_outputs"]["image"]
        made.to(torch.float64)
        assert {each.dtype for each in tensors(made).values() if each.is_floating_point()} == {torch.float64}
    assert torch.equal(model(**pruned).logits, expected)


@pytest.mark.parametrize("family", ["llava", "qwen3_vl"])
@torch.no_grad()
def test_a_model_may_change_the_lists_of_features_that_it_gets(family):
    model = model_of(family)
    pruned = prune_inputs(model, batch(family, "ttItt"), **PRUNING)
    expected = model(**pruned).logits
    for value in pruned["mm_encoder_outputs"]["image"].values():
        for each in (*value, value) if isinstance(value[0], list) else (value,):
            each.clear()
    assert torch.equal(model(**pruned).logits, expected)
