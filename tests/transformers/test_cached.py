"""What goes on from a cache under `enable_pruning`, in a loop of one's own or in `generate`."""

import pytest
import torch

from tests.support.vision_language import MROPE_FAMILIES, NO_TEXT, batch, every_family_slow_but, model_of
from tokenprune_kernels.integrations.transformers import enable_pruning, prune_inputs

GREEDY = {"max_new_tokens": 3, "min_new_tokens": 3, "do_sample": False, "suppress_tokens": NO_TEXT}
OUTPUT = {"return_dict_in_generate": True, "output_logits": True}
PRUNING = {"keep_ratio": 0.3}
SOME = every_family_slow_but("llava", "internvl", "qwen2_5_vl", "qwen3_vl")


def options_of(family):
    return [{}] if family in MROPE_FAMILIES else [{"positions": "contiguous"}, {"positions": "original"}]


def assert_close(logits, others):
    torch.testing.assert_close(logits, others, atol=2e-5, rtol=1e-4)


def ones(rows, columns):
    return torch.ones(rows, columns, dtype=torch.int64)


@pytest.mark.parametrize("rows", [("ttItt", "ttttt"), ("t" * 30, "ttIt")], ids=["shortened", "as long as before"])
@pytest.mark.parametrize("family", SOME)
@torch.no_grad()
def test_a_loop_meets_the_padding_that_pruning_made(family, rows):
    """Without a mask, with the one of the caller's prompt, and with that of the shortened one."""
    model, inputs, token = model_of(family), batch(family, *rows), torch.tensor([[7], [9]])
    for options in options_of(family):
        pruned = prune_inputs(model, inputs, **PRUNING, **options)
        output = model(**pruned, use_cache=True)
        first = model(**pruned.next_step(output, token)).logits
        second = model(**pruned.next_step(output, token + 1)).logits
        with enable_pruning(model, **PRUNING, **options):
            for before in (None, inputs["attention_mask"], pruned.attention_mask):
                cache = model(**inputs, use_cache=True).past_key_values
                for number, expected in enumerate((first, second)):
                    mask = None if before is None else torch.cat([before, ones(2, number + 1)], 1)
                    step = {"input_ids": token + number, "attention_mask": mask, "past_key_values": cache}
                    assert_close(model(**step).logits, expected)


@pytest.mark.parametrize("dropped", [0, 1])
@pytest.mark.parametrize("family", ["llava", "qwen3_vl"])
@torch.no_grad()
def test_a_loop_goes_on_after_generate(family, dropped):
    """`generate` numbers the tokens of a padded row from its first one, a forward pass from the first column."""
    model, inputs = model_of(family), batch(family, "ttItt", "tttt")
    with enable_pruning(model, **PRUNING):
        expected = model.generate(**inputs, **GREEDY | {"max_new_tokens": 4}, **OUTPUT)
        output = model.generate(**inputs, **GREEDY, **OUTPUT)
        if dropped:
            output.past_key_values.crop(-dropped)
        last = output.sequences[:, [-1 - dropped]]
        mask = torch.cat([inputs["attention_mask"], ones(2, 3 - dropped)], 1)
        logits = model(last, attention_mask=mask, past_key_values=output.past_key_values).logits[:, -1]
    assert_close(logits, expected.logits[3 - dropped])


@torch.no_grad()
def test_a_loop_goes_on_after_generate_was_interrupted():
    from transformers import DynamicCache

    model, inputs = model_of("llava"), batch("llava", "ttItt", "tttt")

    def interrupt(input_ids, scores):
        raise KeyboardInterrupt

    with enable_pruning(model, **PRUNING):
        expected = model.generate(**inputs, **GREEDY, **OUTPUT)
        cache = DynamicCache(config=model.config.get_text_config())
        with pytest.raises(KeyboardInterrupt):
            model.generate(**inputs, **GREEDY, past_key_values=cache, logits_processor=[interrupt])
        logits = model(expected.sequences[:, -3:-2], past_key_values=cache).logits[:, -1]
    assert_close(logits, expected.logits[1])


@pytest.mark.parametrize("family", ["llava", "qwen3_vl"])
@torch.no_grad()
def test_an_emptied_cache_begins_another_conversation(family):
    model, ids, token = model_of(family), batch(family, "t" * 20)["input_ids"], torch.tensor([[7]])
    with enable_pruning(model, **PRUNING, **options_of(family)[-1]):
        cache = model(**batch(family, "ttIttt"), use_cache=True).past_key_values
        cache.crop(-cache.get_seq_length())
        model(ids, past_key_values=cache)
        logits = model(token, past_key_values=cache).logits[:, -1]
        assert_close(logits, model(torch.cat([ids, token], 1)).logits[:, -1])


@pytest.mark.parametrize("family", ["llava", "qwen3_vl"])
def test_the_padding_of_an_answer_stays_masked_without_a_mask(family):
    """Also in the last answered token, which the cache lacks."""
    model, inputs = model_of(family), batch(family, "ttItt", "tItttt")
    del inputs["attention_mask"]
    inputs["input_ids"][inputs["input_ids"] == 0] = 5  # no padding in the prompt
    greedy = GREEDY | {"min_new_tokens": 1}
    with enable_pruning(model, **PRUNING):
        stop = int(model.generate(**inputs, **greedy)[1, inputs["input_ids"].shape[1] + 1])
        output = model.generate(**inputs, **greedy, **OUTPUT, eos_token_id=stop, pad_token_id=0)
        answer = output.sequences[:, inputs["input_ids"].shape[1] :]
        assert answer[1, -1] == 0 != answer[0, -1]
        ids = torch.cat([output.sequences, torch.tensor([[7, 8], [8, 9]])], 1)
        again = model.generate(ids, past_key_values=output.past_key_values, **GREEDY, **OUTPUT)
        inputs["attention_mask"] = (ids != 0).long()
        if "mm_token_type_ids" in inputs:
            inputs["mm_token_type_ids"] = torch.nn.functional.pad(inputs["mm_token_type_ids"], (0, 5))
        expected = model.generate(**inputs | {"input_ids": ids}, **GREEDY, **OUTPUT)
    for logits, others in zip(again.logits, expected.logits, strict=True):
        assert_close(logits, others)


@pytest.mark.parametrize("family", ["llava", "qwen3_vl"])
def test_pruned_inputs_under_enable_pruning(family):
    """Most tokens stay, so that there are more of them than an image is high and wide."""
    model, pruned = model_of(family), prune_inputs(model_of(family), batch(family, "ttItt"), keep_ratio=0.9)
    with enable_pruning(model, keep_ratio=0.9):
        output = model.generate(**pruned, **GREEDY, **OUTPUT)
        ids = torch.cat([output.sequences, torch.tensor([[7, 8]])], 1)
        again = model.generate(ids, past_key_values=output.past_key_values, **GREEDY, **OUTPUT)
    output = model.generate(**pruned, **GREEDY, **OUTPUT)
    expected = model.generate(**pruned.next_turn(output, {"input_ids": ids[:, -2:]}), **GREEDY, **OUTPUT)
    for logits, others in zip(again.logits, expected.logits, strict=True):
        assert_close(logits, others)


@torch.no_grad()
def test_what_does_not_go_on_from_a_cache_is_refused_in_one_line():
    model, inputs = model_of("llava"), batch("llava", "ttItt", "tttt")
    with enable_pruning(model, **PRUNING):
        output = model.generate(**inputs, **GREEDY, **OUTPUT)
        cache, ids = output.past_key_values, torch.cat([output.sequences, torch.tensor([[7], [8]])], 1)
        positions = torch.arange(ids.shape[1]).expand(2, -1)
        with pytest.raises(ValueError, match=r"^enable_pruning: expected no position_ids beside a filled cache, got"):
            model.generate(ids, past_key_values=cache, position_ids=positions, **GREEDY)
        for name in ("num_beams", "num_return_sequences"):
            with pytest.raises(ValueError, match=r"^enable_pruning: expected num_beams and num_return_sequences to be"):
                model.generate(ids, past_key_values=cache, **{name: 2}, **GREEDY)
        with pytest.raises(ValueError, match=r"^enable_pruning: expected new tokens for each of the 2 rows"):
            model(torch.tensor([[7]]), past_key_values=cache)
        cache.crop(-4)
        with pytest.raises(ValueError, match=r"^enable_pruning: expected a cache of at least 9 tokens"):
            model(torch.tensor([[7], [8]]), past_key_values=cache)
