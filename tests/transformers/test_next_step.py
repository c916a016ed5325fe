"""A decoding loop of one's own on what `prune_inputs` returns."""

import pytest
import torch

from tests.support.vision_language import (
    MROPE_FAMILIES,
    NO_TEXT,
    batch,
    every_family_slow_but,
    model_of,
    rows_of,
)
from tokenprune_kernels.integrations.transformers import PrunedInputs, prune_inputs

GREEDY = {"max_new_tokens": 4, "min_new_tokens": 4, "do_sample": False, "suppress_tokens": NO_TEXT}
PRUNING = {"keep_ratio": 0.3}
SOME = every_family_slow_but("llava", "internvl", "qwen3_vl")


def options_of(family):
    return [{}] if family in MROPE_FAMILIES else [{"positions": "contiguous"}, {"positions": "original"}]


def assert_close(logits, others):
    torch.testing.assert_close(logits, others, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("rows", ["alone", "batch", "text"])
@pytest.mark.parametrize("family", SOME)
@torch.no_grad()
def test_a_loop_of_steps_equals_generate(family, rows):
    model = model_of(family)
    inputs = batch(family, *{"alone": ["ttItittt"], "batch": rows_of(family), "text": ["tttt", "tt"]}[rows])
    for options in options_of(family):
        pruned = prune_inputs(model, inputs, **PRUNING, **options)
        expected = model.generate(**pruned, **GREEDY, return_dict_in_generate=True, output_logits=True)
        call, tokens = pruned, []
        for logits in expected.logits:
            output = model(**call, use_cache=True)
            assert_close(output.logits[:, -1], logits)
            tokens.append(output.logits[:, -1:].index_fill(-1, torch.tensor(NO_TEXT), -torch.inf).argmax(-1))
            model.generate(**batch(family, "tItItt"), **GREEDY)  # somebody else
            call = pruned.next_step(output, tokens[-1])
        assert torch.equal(torch.cat(tokens, 1), expected.sequences[:, -4:])


@pytest.mark.parametrize("family", SOME)
@torch.no_grad()
def test_several_tokens_at_once(family):
    model, tokens = model_of(family), torch.tensor([[7, 9, 11], [8, 10, 12]])
    for options in options_of(family):
        pruned = prune_inputs(model, batch(family, "ttItt", "tIttttt"), **PRUNING, **options)
        output = model(**pruned, use_cache=True)
        together = model(**pruned.next_step(output, tokens)).logits
        output = model(**pruned, use_cache=True)
        for number, token in enumerate(tokens.split(1, dim=1)):
            output = model(**pruned.next_step(output, token))
            assert_close(output.logits[:, 0], together[:, number])


@pytest.mark.parametrize("family", ["llava", "qwen3_vl"])
@torch.no_grad()
def test_rows_that_are_padded_on_the_right(family):
    """The row alone is the reference; its last token is not in the last column."""
    model, rows, token = model_of(family), ("ttItt", "tttttttttttttt"), torch.tensor([[7], [9]])
    inputs = batch(family, *rows)
    padding = (inputs["attention_mask"] == 0).sum(-1).tolist()
    for name in ("input_ids", "attention_mask", "mm_token_type_ids"):
        if name in inputs:
            inputs[name] = torch.stack([row.roll(-n) for row, n in zip(inputs[name], padding, strict=True)])
    pruned = prune_inputs(model, inputs, **PRUNING)
    assert (pruned.attention_mask[:, -1] == 0).any()
    logits = model(**pruned.next_step(model(**pruned, use_cache=True), token)).logits
    for number, row in enumerate(rows):
        alone = prune_inputs(model, batch(family, row), **PRUNING)
        step = alone.next_step(model(**alone, use_cache=True), token[number : number + 1])
        assert_close(logits[number], model(**step).logits[0])


@torch.no_grad()
def test_a_static_cache():
    from transformers import StaticCache

    model, inputs = model_of("qwen3_vl"), batch("qwen3_vl", "ttItt")
    pruned = prune_inputs(model, inputs, **PRUNING)
    token = torch.tensor([[7]])
    expected = model(**pruned.next_step(model(**pruned, use_cache=True), token)).logits
    cache = StaticCache(config=model.config.get_text_config(), max_cache_len=40)
    output = model(**pruned, past_key_values=cache)
    assert_close(model(**pruned.next_step(output, token)).logits, expected)


@torch.no_grad()
def test_what_is_no_step_is_refused_in_one_line():
    model, inputs = model_of("llava"), batch("llava", "ttItt")
    pruned, token = prune_inputs(model, inputs, **PRUNING), torch.tensor([[7]])
    output = model(**pruned, use_cache=True)
    for tokens in (token[0], token.expand(2, 1), token[:, :0]):
        with pytest.raises(
            ValueError, match=r"^next_step: expected input_ids of shape \[1, n\], new tokens alone, got"
        ):
            pruned.next_step(output, tokens)
    with pytest.raises(TypeError, match=r"^next_step: expected input_ids to be a tensor, got list"):
        pruned.next_step(output, [[7]])
    for other in (model(**pruned, use_cache=False), output.logits, model(token, use_cache=True)):
        with pytest.raises(ValueError, match=r"^next_step: expected output to have a cache of at least 9 tokens"):
            pruned.next_step(other, token)
    with pytest.raises(ValueError, match=r"^next_step: expected inputs that prune_inputs returned, got others"):
        PrunedInputs(inputs).next_step(output, token)
    output = model.generate(**pruned, **GREEDY, return_dict_in_generate=True)
    with pytest.raises(ValueError, match=r"^next_step: expected the output of a forward pass, got that of generate"):
        pruned.next_step(output, token)
    further = prune_inputs(model, pruned.next_turn(output, batch("llava", "tIt")), **PRUNING)
    with pytest.raises(ValueError, match=r"^next_step: expected inputs of a first turn, got those of a further one"):
        further.next_step(output, token)


@torch.no_grad()
def test_outputs_of_other_inputs_are_refused_in_one_line():
    model = model_of("llava")
    prompts = ["ttItt"], ["tItttttt"], ["ttItt", "ttItt"]
    pruned, longer, two = (prune_inputs(model, batch("llava", *rows), **PRUNING) for rows in prompts)
    token = torch.tensor([[7]])
    with pytest.raises(ValueError, match=r"^next_step: expected the output of these 9 tokens, got that of 12"):
        pruned.next_step(model(**longer, use_cache=True), token)
    with pytest.raises(ValueError, match=r"^next_step: expected a cache of 1 rows, .* got 2"):
        pruned.next_step(model(**two, use_cache=True), token)
    output = model(**pruned, use_cache=True)
    step = pruned.next_step(output, token)
    model(**step)
    with pytest.raises(ValueError, match=r"^PrunedInputs: expected past_key_values of 9 tokens, as when"):
        model(**step)
    pruned["attention_mask"] = torch.cat([token * 0, pruned.attention_mask[:, 1:]], 1)
    with pytest.raises(ValueError, match=r"^next_step: expected inputs as prune_inputs returned them, got another"):
        pruned.next_step(output, token)
