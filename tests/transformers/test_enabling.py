"""Pruning switched on and off, and the inputs of a forward pass under it."""

import copy

import pytest
import torch

from tests.support.vision_language import FAMILIES, IMAGE, MAKERS, MROPE_FAMILIES, WITH_VIDEOS, batch, model_of
from tokenprune_kernels.integrations.transformers import enable_pruning, prune_inputs

PRUNING = {"keep_ratio": 0.3}


def attributes(model):
    """The attributes of the model and of the inner one, and the hooks of both."""
    return [
        {name: dict(value) if isinstance(value, dict) else value for name, value in vars(module).items()}
        for module in (model, model.model)
    ]


@pytest.mark.parametrize("family", FAMILIES)
def test_removal_restores_every_attribute(family):
    model, inputs = model_of(family), batch(family, "ttIt", "ttt")
    before, forward = attributes(model), model.forward
    handle = enable_pruning(model, **PRUNING)
    model.generate(**inputs, max_new_tokens=2, do_sample=False)
    model(**inputs)
    assert attributes(model) != before
    handle.remove()
    assert attributes(model) == before
    assert model.forward == forward
    assert "generate" not in vars(model)
    handle.remove()
    assert attributes(model) == before


def test_the_with_block_ends_pruning_after_an_error():
    model, inputs = model_of("llava"), batch("llava", "ttIt")
    before = attributes(model)
    with pytest.raises(ValueError, match="no_such_input"), enable_pruning(model, **PRUNING):
        model.generate(**inputs, no_such_input=1)
    assert attributes(model) == before


def test_a_generate_that_was_replaced_before_comes_back():
    model, inputs = model_of("llava"), batch("llava", "ttIt")
    model.generate = replaced = lambda inputs=None, **options: options["input_ids"]
    try:
        with enable_pruning(model, **PRUNING):
            assert torch.equal(model.generate(**inputs), inputs["input_ids"])
        assert model.generate is replaced
    finally:
        del model.generate


def test_pruning_is_enabled_once():
    model = model_of("llava")
    with enable_pruning(model, **PRUNING):
        with pytest.raises(ValueError, match="expected a model without pruning, got one whose pruning is enabled"):
            enable_pruning(model, **PRUNING)
        model(**batch("llava", "ttIt"))
    with enable_pruning(model, **PRUNING):
        pass


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_labels_of_dropped_tokens_are_dropped(family):
    rows = ("ttItit", "tVtt" if family in WITH_VIDEOS else "tttt")
    model, inputs = model_of(family), batch(family, *rows)
    labels = inputs["input_ids"].masked_fill(inputs["attention_mask"] == 0, -100)
    with enable_pruning(model, **PRUNING):
        output = model(**inputs, labels=labels)
    pruned = prune_inputs(model, inputs | {"labels": labels}, **PRUNING)
    assert torch.equal(pruned["labels"], pruned["input_ids"].masked_fill(pruned["attention_mask"] == 0, -100))
    assert output.logits.shape[:2] == pruned["labels"].shape
    expected = torch.nn.functional.cross_entropy(output.logits[:, :-1].flatten(0, 1), pruned["labels"][:, 1:].flatten())
    torch.testing.assert_close(output.loss, expected)
    if family in MROPE_FAMILIES:
        assert pruned["mm_token_type_ids"].shape == pruned["labels"].shape
        assert torch.equal(pruned["mm_token_type_ids"] == 1, pruned["input_ids"] == IMAGE)


@pytest.mark.parametrize("family", ["llava", "qwen2_5_vl"])
def test_gradients_reach_the_vision_tower(family):
    model, inputs = model_of(family), batch(family, "ttIttt")
    tower = model.model.vision_tower if family == "llava" else model.model.visual
    with enable_pruning(model, **PRUNING):
        model(**inputs, labels=inputs["input_ids"]).loss.backward()
    gradient = next(parameter.grad for parameter in tower.parameters() if parameter.grad is not None)
    assert gradient.abs().sum() > 0
    model.zero_grad()


def test_no_gradients_are_recorded_on_the_way_to_generate():
    model, inputs, recorded = model_of("llava"), batch("llava", "ttItt"), []

    def importance(tokens):
        recorded.append(tokens.requires_grad)
        return tokens[:, 0]

    options = {"method": "idpruner", "k": 3, "importance": importance}
    prune_inputs(model, inputs, **options)
    with enable_pruning(model, **options):
        model.generate(**inputs, max_new_tokens=1)
        model(**inputs)
    assert recorded == [False, False, True]


@torch.no_grad()
def test_positions_that_are_given_are_shortened_as_they_are():
    model, inputs = model_of("llava"), batch("llava", "ttItt")
    original = prune_inputs(model, inputs, positions="original", **PRUNING)
    given = torch.arange(inputs["input_ids"].shape[1])[None]
    shortened = prune_inputs(model, inputs | {"position_ids": given}, **PRUNING)
    assert torch.equal(shortened["position_ids"], original["position_ids"])
    with enable_pruning(model, **PRUNING):
        torch.testing.assert_close(model(**inputs, position_ids=given).logits, model(**original).logits)


@pytest.mark.parametrize("leading", [3, 4])
@torch.no_grad()
def test_three_dimensional_positions_that_are_given(leading):
    model, inputs = model_of("qwen3_vl"), batch("qwen3_vl", "ttItt", "tIIt")
    expected = prune_inputs(model, inputs, **PRUNING)
    spatial, _ = model.model.get_rope_index(**{name: inputs[name] for name in inputs if name != "pixel_values"})
    text = torch.arange(spatial.shape[-1]).expand(1, 2, -1)
    given = torch.cat([text, spatial]) if leading == 4 else spatial
    pruned = prune_inputs(model, inputs | {"position_ids": given}, **PRUNING)
    torch.testing.assert_close(model(**pruned).logits, model(**expected).logits)
    assert leading == 3 or torch.equal(pruned["position_ids"], expected["position_ids"])


@torch.no_grad()
def test_arguments_may_be_given_in_their_order():
    model, inputs = model_of("llava"), batch("llava", "ttItt", "tt")
    with enable_pruning(model, **PRUNING):
        expected = model(**inputs).logits
        given = model(inputs["input_ids"], inputs["pixel_values"], inputs["attention_mask"]).logits
    assert torch.equal(given, expected)


@torch.no_grad()
def test_a_missing_mask_means_no_padding_and_missing_types_follow_from_the_tokens():
    for family in ("llava", "qwen2_vl"):
        model, inputs = model_of(family), batch(family, "ttItt")
        bare = {name: value for name, value in inputs.items() if name not in ("attention_mask", "mm_token_type_ids")}
        pruned = prune_inputs(model, bare, **PRUNING)
        assert torch.equal(model(**pruned).logits, model(**prune_inputs(model, inputs, **PRUNING)).logits)
        assert "attention_mask" in pruned


def test_the_inputs_stay_as_they_were():
    model, inputs = model_of("qwen3_vl"), batch("qwen3_vl", "ttIVt", "tt")
    before = {name: value.clone() for name, value in inputs.items()}
    prune_inputs(model, inputs, **PRUNING)
    assert inputs.keys() == before.keys()
    assert all(torch.equal(inputs[name], before[name]) for name in before)


def test_a_subclass_belongs_to_the_family_of_its_base():
    model = MAKERS["llava"]().eval()
    model.__class__ = type("Tuned", (type(model),), {})
    assert prune_inputs(model, batch("llava", "tIt"), k=2)["input_ids"].shape == (1, 4)


def test_extra_options_of_a_call_are_passed_on():
    model, inputs = model_of("llava"), batch("llava", "ttItt")
    with enable_pruning(model, **PRUNING):
        output = model(**inputs, output_hidden_states=True, logits_to_keep=1)
    assert output.logits.shape[1] == 1
    assert output.hidden_states[0].shape[1] < inputs["input_ids"].shape[1]


def test_a_generate_that_was_set_since_then_stays():
    model = model_of("llava")
    handle = enable_pruning(model, **PRUNING)
    model.generate = later = lambda **options: None
    try:
        handle.remove()
        assert model.generate is later
    finally:
        del model.generate


@torch.no_grad()
def test_positions_of_one_row_are_those_of_all():
    model, inputs = model_of("llava"), batch("llava", "ttItt", "ttItt")
    positions = torch.arange(inputs["input_ids"].shape[1])[None]
    with enable_pruning(model, **PRUNING):
        expected = model(**inputs, position_ids=positions.repeat(2, 1)).logits
        assert torch.equal(model(**inputs, position_ids=positions).logits, expected)


@torch.no_grad()
def test_inputs_that_are_none_are_none():
    model, inputs = model_of("llava"), batch("llava", "ttIt")
    with enable_pruning(model, **PRUNING):
        expected = model(**inputs).logits
        given = inputs | {"attention_mask": None, "labels": None, "position_ids": None}
        assert torch.equal(model(**given).logits, expected)


def test_new_padding_is_the_padding_token():
    model, inputs = copy.deepcopy(model_of("llava")), batch("llava", "ttItt", "ttIIt")
    for config in (model.generation_config, model.config, model.config.get_text_config()):
        config.pad_token_id = None
    model.config.get_text_config().pad_token_id = 5
    pruned = prune_inputs(model, inputs, keep_ratio=0.3)
    assert set(pruned["input_ids"][pruned["attention_mask"] == 0].tolist()) <= {0, 5}
    model.config.get_text_config().pad_token_id = -1
    assert (prune_inputs(model, inputs, keep_ratio=0.3)["input_ids"] >= 0).all()
