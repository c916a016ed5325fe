"""What public reports say of other prunings and of the models themselves, tried here."""

import copy

import pytest
import torch

from tests.support.vision_language import IMAGE, NO_TEXT, batch, injected, model_of
from tokenprune_kernels.integrations.transformers import enable_pruning, prune_inputs

PRUNING = {"keep_ratio": 0.3}
GREEDY = {"max_new_tokens": 3, "do_sample": False, "suppress_tokens": NO_TEXT}
CLASS = {"method": "idpruner", "importance": "cls_attention", "k": 4}


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
@pytest.mark.parametrize("family", ["llava", "internvl"])
def test_class_attention_with_any_attention_implementation(family, implementation):
    """VisionZip #18, HiPrune #5: attention weights that a fused attention does not return."""
    model, inputs = copy.deepcopy(model_of(family)), batch(family, "ttItt")
    model.model.vision_tower.set_attn_implementation(implementation)
    expected = injected(prune_inputs(model_of(family), inputs, **CLASS))
    torch.testing.assert_close(injected(prune_inputs(model, inputs, **CLASS)), expected)


def test_relevance_to_a_prompt_without_text_leaves_diversity():
    """openvino.genai #3084: CDPruner where no text is given."""
    model, inputs = model_of("llava"), batch("llava", "I")
    pruned = prune_inputs(model, inputs, method="dpp", relevance="text", k=5)
    expected = prune_inputs(model, inputs, method="dpp", relevance=torch.ones(16), k=5)
    assert torch.equal(pruned.kept_indices[0], expected.kept_indices[0])


@torch.no_grad()
def test_rows_of_other_lengths_come_with_a_mask_though_none_was_given():
    """LLaVA #1720: padded rows without a mask."""
    model, inputs = model_of("llava"), batch("llava", "tItIt", "tItIt")
    del inputs["attention_mask"]
    pruned = prune_inputs(model, inputs, k=[2, 2, 9, 9])
    assert pruned.attention_mask.sum(-1).tolist() == [7, 21]
    one = batch("llava", "tItIt")
    torch.testing.assert_close(
        model(**pruned).logits[0, -7:], model(**prune_inputs(model, one, k=2)).logits[0], atol=2e-5, rtol=1e-4
    )


@pytest.mark.parametrize("family", ["qwen2_vl", "qwen3_vl"])
def test_a_call_does_not_see_the_positions_of_the_one_before(family):
    """trl #5088, transformers #43952: a stale offset of another batch in the next call."""
    model, small, large = model_of(family), batch(family, "ttIt"), batch(family, "tItItt", "ttItt")
    with enable_pruning(model, **PRUNING):
        expected = model.generate(**small, **GREEDY)
        model.generate(**large, **GREEDY)
        model.generate(**batch(family, "tttt", "ttt", "tt"), **GREEDY)
        assert torch.equal(model.generate(**small, **GREEDY), expected)


@pytest.mark.parametrize("family", ["qwen2_5_vl", "qwen3_vl"])
def test_tokens_of_a_video_keep_their_time(family):
    """transformers #45381: temporal positions of video tokens."""
    model, inputs = model_of(family), batch(family, "ttVt")
    spatial, _ = model.model.get_rope_index(
        inputs["input_ids"], inputs["mm_token_type_ids"], video_grid_thw=inputs["video_grid_thw"]
    )
    pruned = prune_inputs(model, inputs, keep_ratio=0.5)
    placed = pruned.kept_columns[0] >= 0
    assert torch.equal(pruned.position_ids[1:, 0, placed], spatial[:, 0, pruned.kept_columns[0, placed]])


@torch.no_grad()
def test_the_last_column_is_the_last_token_of_each_row():
    """VLM2Vec #18: pooling the last token of rows that are padded on the left."""
    model, rows = model_of("llava"), ("tttttt", "ttItt", "tItIt")
    pruned = prune_inputs(model, batch("llava", *rows), **PRUNING)
    together = model(**pruned, output_hidden_states=True).hidden_states[-1][:, -1]
    for row, state in zip(rows, together, strict=True):
        alone = prune_inputs(model, batch("llava", row), **PRUNING)
        expected = model(**alone, output_hidden_states=True).hidden_states[-1][0, -1]
        torch.testing.assert_close(state, expected, atol=2e-5, rtol=1e-4)


def test_a_padding_token_of_zero_is_one():
    """NeMo Automodel #3704: `0 or eos` is another token."""
    model = copy.deepcopy(model_of("llava"))
    model.generation_config.pad_token_id = 0
    model.config.pad_token_id = 7
    pruned = prune_inputs(model, batch("llava", "tItIt", "tttt"), k=[2, 3])
    assert set(pruned.input_ids[pruned.attention_mask == 0].tolist()) == {0}
    assert int((pruned.input_ids == IMAGE).sum()) == 5
