"""Decoding: cached and from scratch, alone and in a batch, greedy, with beams and with several sequences."""

import pytest
import torch

from tests.support.vision_language import (
    FAMILIES,
    MAKERS,
    NO_TEXT,
    batch,
    model_of,
    rows_of,
    transformers,
)
from tokenprune_kernels.integrations.transformers import enable_pruning, prune_inputs

GREEDY = {"max_new_tokens": 4, "do_sample": False, "suppress_tokens": NO_TEXT}
PRUNING = {"keep_ratio": 0.3}
POSITIONS = [
    *((family, "original") for family in FAMILIES),
    *((family, "contiguous") for family in ("llava", "internvl")),
    *(
        pytest.param(family, "contiguous", marks=pytest.mark.slow)
        for family in ("pixtral", "llava_next", "llava_next_video", "llava_onevision")
    ),
]


def continued(inputs, tokens):
    """The inputs with text tokens, [B, n], after the prompts."""
    extended = dict(inputs)
    for name, values in (
        ("input_ids", tokens),
        ("attention_mask", torch.ones_like(tokens)),
        ("mm_token_type_ids", torch.zeros_like(tokens)),
    ):
        if name in inputs:
            extended[name] = torch.cat([inputs[name], values.to(inputs[name].dtype)], dim=1)
    return extended


@pytest.mark.parametrize(("family", "positions"), POSITIONS)
@torch.no_grad()
def test_decoding_with_a_cache_equals_recomputation_from_scratch(family, positions):
    model, inputs = model_of(family), batch(family, *rows_of(family))
    pruned = prune_inputs(model, inputs, positions=positions, **PRUNING)
    result = model.generate(**pruned, **GREEDY, return_dict_in_generate=True, output_logits=True)
    new_tokens = result.sequences[:, pruned["input_ids"].shape[1] :]
    for step, logits in enumerate(result.logits):
        whole = prune_inputs(model, continued(inputs, new_tokens[:, :step]), positions=positions, **PRUNING)
        torch.testing.assert_close(logits, model(**whole).logits[:, -1], atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_a_loop_of_forward_calls_equals_generate(family):
    """What the prefill leaves behind, in the cache and on the model, is enough to decode on."""
    model, inputs = model_of(family), batch(family, "ttItittt")
    with enable_pruning(model, **PRUNING):
        expected = model.generate(**inputs, **GREEDY)[:, inputs["input_ids"].shape[1] :]
        tokens, call = [], inputs
        while len(tokens) < expected.shape[1]:
            output = model(**call, use_cache=True)
            tokens.append(output.logits[:, -1:].index_fill(-1, torch.tensor(NO_TEXT), -torch.inf).argmax(-1))
            call = {"input_ids": tokens[-1], "past_key_values": output.past_key_values}
    assert torch.equal(torch.cat(tokens, dim=1), expected)


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_a_prompt_in_a_batch_gives_what_it_gives_alone(family):
    model, rows = model_of(family), rows_of(family)
    with enable_pruning(model, **PRUNING):
        together = model(**batch(family, *rows)).logits
        generated = model.generate(**batch(family, *rows), **GREEDY)
        for number, row in enumerate(rows):
            alone = batch(family, row)
            logits = model(**alone).logits[0]
            torch.testing.assert_close(together[number, -len(logits) :], logits, atol=2e-5, rtol=1e-4)
            assert torch.equal(generated[number, -4:], model.generate(**alone, **GREEDY)[0, -4:])


@pytest.mark.parametrize("family", FAMILIES)
def test_the_usual_slice_holds_the_new_tokens(family):
    model, inputs = model_of(family), batch(family, *rows_of(family))
    length = inputs["input_ids"].shape[1]
    pruned = prune_inputs(model, inputs, **PRUNING)
    expected = model.generate(**pruned, **GREEDY)[:, pruned["input_ids"].shape[1] :]
    with enable_pruning(model, **PRUNING):
        generated = model.generate(**inputs, **GREEDY)
        output = model.generate(**inputs, **GREEDY, return_dict_in_generate=True)
    for sequences in (generated, output.sequences, output["sequences"]):
        assert torch.equal(sequences[:, :length], inputs["input_ids"])
        assert torch.equal(sequences[:, length:], expected)
    assert pruned["input_ids"].shape[1] < length


@pytest.mark.parametrize(
    "options",
    [{"num_beams": 3, "num_return_sequences": 2}, pytest.param({"num_beams": 3}, marks=pytest.mark.slow)],
    ids=["both", "beams"],
)
@pytest.mark.parametrize("family", FAMILIES)
def test_beams_of_a_batch_are_those_of_each_prompt(family, options):
    model, rows = model_of(family), rows_of(family)
    sequences = options.get("num_return_sequences", 1)
    inputs = batch(family, *rows)
    with enable_pruning(model, **PRUNING):
        together = model.generate(**inputs, **GREEDY, **options)
        alone = [model.generate(**batch(family, row), **GREEDY, **options)[:, -4:] for row in rows]
    length = inputs["input_ids"].shape[1]
    assert torch.equal(together[:, :length], inputs["input_ids"].repeat_interleave(sequences, dim=0))
    assert torch.equal(together[:, length:], torch.cat(alone))


@pytest.mark.parametrize("family", ["llava", "qwen3_vl"])
def test_sampled_sequences_start_from_the_pruned_prompt(family):
    """Of one token each, so that every sequence of a prompt has the same few candidates."""
    model, rows = model_of(family), ("tItt", "ttttt")
    inputs = batch(family, *rows)
    options = {
        "do_sample": True,
        "max_new_tokens": 1,
        "num_return_sequences": 5,
        "top_k": 1,
        "suppress_tokens": NO_TEXT,
    }
    with enable_pruning(model, **PRUNING):
        sampled = model.generate(**inputs, **options)
        greedy = model.generate(**inputs, **GREEDY | {"max_new_tokens": 1})
    assert torch.equal(sampled, greedy.repeat_interleave(5, dim=0))


@pytest.mark.parametrize("family", ["llava", "internvl", "qwen3_vl"])
def test_other_ways_through_generate(family):
    model, inputs = model_of(family), batch(family, "ttItt", "tttit")
    ways = [{"cache_implementation": "static"}, {"use_cache": False}]
    if not transformers.__version__.startswith("5.19."):  # which is wrong after a prefill in chunks, pruned or not
        ways.append({"prefill_chunk_size": 5})
    with enable_pruning(model, **PRUNING):
        expected = model.generate(**inputs, **GREEDY)
        for way in ways:
            assert torch.equal(model.generate(**inputs, **GREEDY, **way), expected)


@pytest.mark.parametrize("family", ["llava", "internvl", "qwen3_vl"])
def test_an_assistant_model_sees_the_pruned_prompt(family):
    model, inputs = model_of(family), batch(family, "ttItittt")
    torch.manual_seed(0)
    assistant = MAKERS[family]().eval()
    with enable_pruning(model, **PRUNING):
        expected = model.generate(**inputs, **GREEDY)
        assert torch.equal(model.generate(**inputs, **GREEDY, assistant_model=assistant), expected)


@pytest.mark.filterwarnings("ignore:Using the model-agnostic default")
def test_limits_on_the_length_count_the_prompt_that_was_given():
    model, inputs = model_of("llava"), batch("llava", "ttItt")
    length = inputs["input_ids"].shape[1]
    with enable_pruning(model, **PRUNING):
        assert model.generate(**inputs, max_length=length + 3, min_length=length + 3).shape[1] == length + 3
        assert model.generate(**inputs, do_sample=False, min_new_tokens=20).shape[1] == length + 20  # the default
        config = type(model.generation_config)(max_length=length + 2, min_length=length + 2, pad_token_id=0)
        assert model.generate(**inputs, generation_config=config).shape[1] == length + 2
        assert model.generate(inputs.pop("input_ids"), config, **inputs).shape[1] == length + 2


@pytest.mark.parametrize("family", ["llava", "qwen2_vl"])
def test_text_alone_passes_through(family):
    model, inputs = model_of(family), batch(family, "ttttt", "ttt")
    expected = model.generate(**inputs, **GREEDY)
    encoded = inputs | {"mm_encoder_outputs": {"image": object()}}
    for given in (inputs, encoded):
        assert dict(prune_inputs(model, given, **PRUNING)) == given
    with enable_pruning(model, **PRUNING):
        assert torch.equal(model.generate(**inputs, **GREEDY), expected)


@pytest.mark.parametrize("family", ["llava", "llava_onevision", "qwen2_5_vl", "qwen3_vl"])
def test_calls_may_share_pruned_inputs(family):
    """Although `generate` repeats the features for beams in place."""
    model = model_of(family)
    pruned = prune_inputs(model, batch(family, "ttItt", "tt", "tIttt"), **PRUNING)
    for options in ({"num_beams": 3}, {}):
        assert torch.equal(model.generate(**pruned, **GREEDY, **options), model.generate(**pruned, **GREEDY, **options))
    assert torch.equal(model.generate(**pruned, **GREEDY), model.generate(**dict(pruned), **GREEDY))
