"""What the language model sees: nothing changed at a ratio of 1, else exactly the kept tokens at their positions."""

import pytest
import torch

import python_ref
from tests.support.vision_language import (
    FAMILIES,
    IMAGE,
    MAKERS,
    MROPE_FAMILIES,
    VIDEO,
    batch,
    model_of,
    own_features,
    rows_of,
    share,
)
from tokenprune_kernels.integrations.transformers import enable_pruning, prune_inputs


def hand_made_logits(family, row, ratio, positions):
    """The logits of one prompt without padding, from explicitly gathered embeddings and positions."""
    model = model_of(family)
    inputs = batch(family, row)
    input_ids = inputs["input_ids"][0]
    visual = (input_ids == IMAGE) | (input_ids == VIDEO)
    places = torch.cat([(input_ids == token_id).nonzero()[:, 0] for token_id in (IMAGE, VIDEO)])
    features = own_features(family, row)
    keep = ~visual
    embeddings = model.get_input_embeddings()(input_ids)
    deepstack = [torch.zeros_like(embeddings) for _ in features[0].deepstack] if features else []
    for item in features:
        here, places = places[: len(item.tokens)], places[len(item.tokens) :]
        keep[here[python_ref.divprune(item.tokens, share(ratio, item.tokens))[0]]] = True
        embeddings[here] = item.tokens
        for total, layer in zip(deepstack, item.deepstack, strict=True):
            total[here] = layer
    if family in MROPE_FAMILIES:
        grids = {name: value for name, value in inputs.items() if name.endswith("grid_thw")}
        position_ids, _ = model.model.get_rope_index(inputs["input_ids"], inputs["mm_token_type_ids"], **grids)
        position_ids = position_ids[..., keep]
    else:
        position_ids = keep.nonzero().T if positions == "original" else torch.arange(int(keep.sum()))[None]
    extras = {}
    if deepstack:
        extras = {
            "visual_pos_masks": visual[keep][None],
            "deepstack_visual_embeds": [layer[keep & visual] for layer in deepstack],
        }
    states = model.model.language_model(
        inputs_embeds=embeddings[keep][None],
        position_ids=position_ids,
        attention_mask=torch.ones(1, int(keep.sum()), dtype=torch.int64),
        **extras,
    )
    return model.lm_head(states.last_hidden_state)[0]


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_a_ratio_of_one_changes_no_bit(family):
    model, inputs = model_of(family), batch(family, *rows_of(family))
    expected = model(**inputs).logits
    assert torch.equal(model(**prune_inputs(model, inputs, keep_ratio=1.0)).logits, expected)
    with enable_pruning(model, keep_ratio=1.0):
        assert torch.equal(model(**inputs).logits, expected)
    assert torch.equal(model(**inputs).logits, expected)


@pytest.mark.parametrize(
    ("family", "positions"),
    [
        (family, positions)
        for family in FAMILIES
        for positions in (["original"] if family in MROPE_FAMILIES else ["contiguous", "original"])
    ],
)
@torch.no_grad()
def test_logits_equal_a_hand_made_forward(family, positions):
    model, rows = model_of(family), rows_of(family)
    pruned = prune_inputs(model, batch(family, *rows), keep_ratio=0.3, positions=positions)
    logits = model(**pruned).logits
    for number, row in enumerate(rows):
        expected = hand_made_logits(family, row, 0.3, positions)
        assert int(pruned["attention_mask"][number].sum()) == len(expected)
        torch.testing.assert_close(logits[number, -len(expected) :], expected, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_the_original_positions_of_one_prompt_are_not_read_as_packed_sequences(family):
    """Without any padding, masks of ones are dropped on the way to the attention."""
    model, row = model_of(family), "tttItitt"
    pruned = prune_inputs(model, batch(family, row), keep_ratio=0.3, positions="original")
    expected = hand_made_logits(family, row, 0.3, "original")
    torch.testing.assert_close(model(**pruned).logits[0, -len(expected) :], expected, atol=2e-5, rtol=1e-4)
    assert family in MROPE_FAMILIES or (pruned["attention_mask"] == 0).any()
    greedy = {"max_new_tokens": 1, "do_sample": False, "output_logits": True, "return_dict_in_generate": True}
    for use_cache in (True, False):
        pruned = prune_inputs(model, batch(family, row), keep_ratio=0.3, positions="original")
        logits = model.generate(**pruned, use_cache=use_cache, **greedy).logits[0][0]
        torch.testing.assert_close(logits, expected[-1], atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("family", ["llava_next", "internvl", "qwen3_vl"])
@torch.no_grad()
def test_half_precision(family):
    torch.manual_seed(0)
    model = MAKERS[family]().eval().bfloat16()
    inputs = batch(family, "ttItit", "tttt")
    inputs["pixel_values"] = inputs["pixel_values"].bfloat16()
    assert torch.equal(model(**prune_inputs(model, inputs, keep_ratio=1.0)).logits, model(**inputs).logits)
    logits = model(**prune_inputs(model, inputs, keep_ratio=0.3)).logits
    assert logits.dtype == torch.bfloat16
    assert not logits[0].isnan().any()


@torch.no_grad()
def test_pruning_does_change_the_logits():
    """Or the tests above would compare nothing."""
    model, inputs = model_of("llava"), batch("llava", "ttItt")
    whole, pruned = model(**inputs).logits, model(**prune_inputs(model, inputs, keep_ratio=0.3)).logits
    assert (whole[0, -1] - pruned[0, -1]).abs().max() > 1e-2


def test_original_positions_count_from_the_first_token_of_each_prompt():
    inputs = batch("llava", "ttItt", "ttt")
    pruned = prune_inputs(model_of("llava"), inputs, k=2, positions="original")
    first, second = pruned["position_ids"].tolist()
    assert [*first[:2], *first[-2:]] == [0, 1, 18, 19]
    assert first[2:-2] == sorted(set(first[2:-2]) & set(range(2, 18)))
    assert second == [0, 0, 0, 0, 1, 2]


@torch.no_grad()
def test_time_between_frames_reaches_the_positions():
    model, inputs = model_of("qwen2_5_vl"), batch("qwen2_5_vl", "ttVt")
    slow = prune_inputs(model, inputs | {"second_per_grid_ts": torch.tensor([4.0])}, keep_ratio=0.5)
    fast = prune_inputs(model, inputs, keep_ratio=0.5)
    assert "second_per_grid_ts" not in slow
    assert slow["position_ids"][1].max() > fast["position_ids"][1].max()


@torch.no_grad()
def test_padding_that_all_rows_share_stays():
    model, inputs = model_of("llava"), batch("llava", "tIt", "tttt")
    for name in ("input_ids", "attention_mask"):
        inputs[name] = torch.nn.functional.pad(inputs[name], (3, 0))
    assert torch.equal(model(**prune_inputs(model, inputs, keep_ratio=1.0)).logits, model(**inputs).logits)


@pytest.mark.parametrize("family", ["llava", "qwen2_5_vl"])
@torch.no_grad()
def test_padding_on_the_right_stays_there(family):
    model, inputs = model_of(family), batch(family, "tttt", "ttItttt")
    count = int((inputs["attention_mask"] == 0).sum())
    for name in ("input_ids", "attention_mask", "mm_token_type_ids"):
        if name in inputs:
            inputs[name] = torch.stack([inputs[name][0].roll(-count), inputs[name][1]])
    assert torch.equal(model(**prune_inputs(model, inputs, keep_ratio=1.0)).logits, model(**inputs).logits)
    pruned = prune_inputs(model, inputs, keep_ratio=0.3)
    assert pruned["attention_mask"].sum(-1).tolist() == [4, pruned["attention_mask"].shape[1]]
    assert pruned["attention_mask"][0, :4].all()
    logits = model(**pruned).logits
    for number, row in enumerate(("tttt", "ttItttt")):
        expected = hand_made_logits(family, row, 0.3, "contiguous")
        torch.testing.assert_close(logits[number, : len(expected)], expected, atol=2e-5, rtol=1e-4)
