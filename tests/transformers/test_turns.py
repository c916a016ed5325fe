"""Several turns of a conversation: each answers as recomputing the whole conversation would."""

import copy

import pytest
import torch

from tests.support.vision_language import (
    MROPE_FAMILIES,
    NO_TEXT,
    batch,
    every_family_slow_but,
    model_of,
)
from tokenprune_kernels.integrations.transformers import enable_pruning, prune_inputs
from tokenprune_kernels.integrations.transformers.conversation import Conversation

GREEDY = {"max_new_tokens": 3, "min_new_tokens": 3, "do_sample": False, "suppress_tokens": NO_TEXT}
OUTPUT = {"return_dict_in_generate": True, "output_logits": True}
PRUNING = {"keep_ratio": 0.3}
SOME = every_family_slow_but("llava", "llava_next", "qwen3_vl")
PIXELS = ("pixel_values", "image_grid_thw", "image_sizes", "pixel_values_videos", "video_grid_thw")


def joined(first, answer, second):
    """The whole conversation without pruning: the first prompt, an answer in text, the second prompt."""
    text = torch.zeros_like(answer)
    between = {"input_ids": answer, "attention_mask": text + 1, "mm_token_type_ids": text}
    whole = {
        name: torch.cat([first[name], between[name].to(first[name].dtype), second[name]], dim=1)
        for name in between
        if name in first
    }
    for name in PIXELS:
        parts = [inputs[name] for inputs in (first, second) if name in inputs]
        if parts:
            whole[name] = torch.cat(parts)
    return whole


def assert_as_from_scratch(model, output, whole, **options):
    pruned = prune_inputs(model, whole, **PRUNING, **options)
    expected = model.generate(**pruned, **GREEDY, **OUTPUT)
    for logits, others in zip(output.logits, expected.logits, strict=True):
        torch.testing.assert_close(logits, others, atol=2e-5, rtol=1e-4)
    assert torch.equal(output.sequences[:, -3:], expected.sequences[:, -3:])


def options_of(family):
    return [{}] if family in MROPE_FAMILIES else [{"positions": "contiguous"}, {"positions": "original"}]


@pytest.mark.parametrize("rows", [("ttt",), ("tIt",)], ids=["text", "image"])
@pytest.mark.parametrize("family", SOME)
def test_the_next_turn_of_pruned_inputs(family, rows):
    model, first, second = model_of(family), batch(family, "ttItt"), batch(family, *rows)
    for options in options_of(family):
        turn = prune_inputs(model, first, **PRUNING, **options)
        output = model.generate(**turn, **GREEDY, **OUTPUT)
        answer = output.sequences[:, turn.input_ids.shape[1] :]
        prune_inputs(model, batch(family, "tIttttt"), k=3)  # of somebody else
        turn = prune_inputs(model, turn.next_turn(output, second), **PRUNING, **options)
        whole = joined(first, answer, second)
        output = model.generate(**turn, **GREEDY, **OUTPUT)
        assert_as_from_scratch(model, output, whole, **options)
        third = batch(family, "tItt")
        turn = prune_inputs(model, turn.next_turn(output, third), **PRUNING, **options)
        answer = output.sequences[:, -3:]
        assert_as_from_scratch(
            model, model.generate(**turn, **GREEDY, **OUTPUT), joined(whole, answer, third), **options
        )


@pytest.mark.parametrize("rows", [("ttt",), ("tIt",)], ids=["text", "image"])
@pytest.mark.parametrize("family", SOME)
def test_the_whole_conversation_with_its_cache_under_enable_pruning(family, rows):
    model, first, second = model_of(family), batch(family, "ttItt"), batch(family, *rows)
    for options in options_of(family):
        with enable_pruning(model, **PRUNING, **options):
            output = model.generate(**first, **GREEDY, **OUTPUT)
            model.generate(**batch(family, "tIttttt"), **GREEDY)  # of somebody else
            answer = output.sequences[:, first["input_ids"].shape[1] :]
            whole = joined(first, answer, second)
            new = whole | {name: second[name] for name in PIXELS if name in second}
            if "pixel_values" not in second:
                new = {name: value for name, value in new.items() if name not in PIXELS}
            output = model.generate(**new, past_key_values=copy.deepcopy(output.past_key_values), **GREEDY, **OUTPUT)
        assert torch.equal(output.sequences[:, :-3], whole["input_ids"])
        assert_as_from_scratch(model, output, whole, **options)


@pytest.mark.parametrize("family", ["llava", "qwen3_vl"])
def test_a_batch_whose_answers_end_at_different_times(family):
    model, first, second = model_of(family), batch(family, "ttItt", "tItttt"), batch(family, "tt", "ttIt")
    turn = prune_inputs(model, first, **PRUNING)
    columns = turn.input_ids.shape[1]
    greedy = GREEDY | {"min_new_tokens": 1}
    stop = int(model.generate(**turn, **greedy)[1, columns + 1])
    output = model.generate(**turn, **greedy, **OUTPUT, eos_token_id=stop, pad_token_id=0)
    answer = output.sequences[:, columns:]
    assert answer[1, 2:].tolist() == [0] * (answer.shape[1] - 2) != answer[0, 2:].tolist()
    follow = model.generate(**prune_inputs(model, turn.next_turn(output, second), **PRUNING), **GREEDY, **OUTPUT)
    whole = joined(first, answer, second)
    width = first["input_ids"].shape[1]
    whole["attention_mask"][1, width + 2 : width + answer.shape[1]] = 0
    assert_as_from_scratch(model, follow, whole)


@pytest.mark.parametrize("family", ["llava", "qwen3_vl"])
def test_new_tokens_alone_beside_a_mask_of_cache_and_new_tokens(family):
    model, first = model_of(family), batch(family, "ttItt")
    new = torch.tensor([[7, 9]])
    with enable_pruning(model, **PRUNING):
        output = model.generate(**first, **GREEDY, **OUTPUT)
        ids = torch.cat([output.sequences, new], 1)
        cache = output.past_key_values
        expected = model.generate(ids, past_key_values=copy.deepcopy(cache), **GREEDY)[:, -3:]
        rest = ids[:, -3:]  # the last answered token is not in the cache
        for length in (cache.get_seq_length() + 3, ids.shape[1]):
            mask = torch.ones(1, length, dtype=torch.int64)
            again = copy.deepcopy(cache)
            assert torch.equal(
                model.generate(rest, attention_mask=mask, past_key_values=again, **GREEDY)[:, -3:], expected
            )


@pytest.mark.parametrize("family", ["llava", "qwen3_vl"])
@torch.no_grad()
def test_a_loop_may_count_its_mask_without_pruning_and_meet_another_conversation(family):
    model, first = model_of(family), batch(family, "ttItt")
    with enable_pruning(model, **PRUNING):
        output = model(**first, use_cache=True)
        cache, step = output.past_key_values, {"input_ids": torch.tensor([[7]])}
        expected = model(**step, past_key_values=copy.deepcopy(cache)).logits
        model(**batch(family, "tIttttt"))
        for length in (first["input_ids"].shape[1] + 1, cache.get_seq_length() + 1):
            mask = torch.ones(1, length, dtype=torch.int64)
            logits = model(**step, attention_mask=mask, past_key_values=copy.deepcopy(cache)).logits
            torch.testing.assert_close(logits, expected, atol=2e-5, rtol=1e-4)
        with pytest.raises(
            ValueError, match=r"expected attention_mask to have .* columns, or .* as without pruning, got 2"
        ):
            model(**step, attention_mask=mask[:, :2], past_key_values=cache)


def test_what_does_not_go_on_is_refused_in_one_line():
    model, first, second = model_of("llava"), batch("llava", "ttItt"), batch("llava", "tIt")
    turn = prune_inputs(model, first, **PRUNING)
    output = model.generate(**turn, **GREEDY, **OUTPUT)
    cache = output.past_key_values
    with pytest.raises(
        ValueError, match=r"expected an empty cache, or the inputs that PrunedInputs\.next_turn returns"
    ):
        prune_inputs(model, first | {"past_key_values": cache}, **PRUNING)
    with pytest.raises(
        ValueError, match=r"expected an empty cache, or the inputs that PrunedInputs\.next_turn returns"
    ):
        prune_inputs(model, {"input_ids": first["input_ids"], "past_key_values": cache}, **PRUNING)
    with pytest.raises(ValueError, match="expected the output of generate with return_dict_in_generate=True"):
        turn.next_turn(output.sequences, second)
    with pytest.raises(ValueError, match="one sequence for each of the 1 prompts"):
        turn.next_turn(model.generate(**prune_inputs(model, second, k=2), **GREEDY, **OUTPUT), second)
    with enable_pruning(model, **PRUNING):
        with pytest.raises(ValueError, match="expected an empty cache for a prompt with images or videos"):
            model.generate(**first, past_key_values=copy.deepcopy(cache))
        result = model.generate(**first, **GREEDY, return_dict_in_generate=True)
        cache = result.past_key_values
        with pytest.raises(ValueError, match="expected an empty cache for a prompt with images or videos"):
            model(**first, past_key_values=cache)
        for wrong in (first["input_ids"], result.sequences.flip(-1)):
            with pytest.raises(ValueError, match="expected input_ids to begin with the 22 tokens"):
                model.generate(wrong, past_key_values=cache)
        with pytest.raises(ValueError, match="expected pixel values for the new placeholders"):
            model.generate(torch.cat([result.sequences, second["input_ids"]], 1), past_key_values=cache)
        cache.crop(-5)
        with pytest.raises(ValueError, match="expected a cache of at least 9 tokens"):
            model.generate(result.sequences, past_key_values=cache)


def test_an_output_goes_on_once():
    model, first = model_of("llava"), batch("llava", "ttItt")
    turn = prune_inputs(model, first, **PRUNING)
    output = model.generate(**turn, **GREEDY, **OUTPUT)
    apart = copy.deepcopy(output)
    following = [prune_inputs(model, turn.next_turn(each, batch("llava", "tt")), k=2) for each in (output, apart)]
    answers = [model.generate(**each, **GREEDY) for each in following]
    assert torch.equal(*answers)
    with pytest.raises(ValueError, match=r"next_turn: expected a cache of \d+ to \d+ tokens, got .* pass a copy"):
        turn.next_turn(output, batch("llava", "ttt"))


def test_a_loop_may_begin_without_a_cache():
    model, first = model_of("llava"), batch("llava", "ttItt")
    with enable_pruning(model, **PRUNING):
        result = model.generate(**first, **GREEDY, return_dict_in_generate=True, past_key_values=None)
        whole = torch.cat([result.sequences, batch("llava", "tt")["input_ids"]], 1)
        output = model.generate(whole, past_key_values=result.past_key_values, **GREEDY, **OUTPUT)
        scratch = joined(first, result.sequences[:, first["input_ids"].shape[1] :], batch("llava", "tt"))
    assert_as_from_scratch(model, output, scratch)


@pytest.mark.parametrize(
    ("answer", "padding", "stops", "mask"),
    [
        ([7, 45, 43, 43], 43, (45, 43), [1, 1, 0, 0]),  # ended by another stop
        ([7, 43, 43, 43], 43, (45, 43), [1, 1, 0, 0]),  # the first one ends the answer
        ([43, 43, 43, 43], 43, (45, 43), [1, 0, 0, 0]),
        ([7, 45, 0, 0], 0, (45, 43), [1, 1, 0, 0]),
        ([7, 45, 45, 45], 0, (45, 43), [1, 1, 0, 0]),  # padded with a stop, as pad_token_id says
        ([7, 45, 43, 43], 0, (45, 43), [1, 1, 0, 0]),
        ([7, 8, 8, 8], 0, (45, 43), [1, 1, 1, 1]),
        ([7, 8, 9, 43], 43, (45, 43), [1, 1, 1, 1]),
    ],
)
def test_the_padding_after_an_answer(answer, padding, stops, mask):
    prompt = torch.tensor([[1, 2], [1, 2]])
    conversation = Conversation(prompt, torch.ones_like(prompt), None, torch.tensor([[2], [2]]), prompt, padding, stops)
    longest = [7, 7, 7, 45]
    after = conversation.after("name", torch.cat([prompt, torch.tensor([answer, longest])], 1))
    assert after.attention_mask.tolist() == [[1, 1, *mask], [1] * 6]


def test_the_longest_answer_may_end_in_the_padding_token():
    prompt = torch.tensor([[1, 2]])
    conversation = Conversation(prompt, torch.ones_like(prompt), None, torch.tensor([[2]]), prompt, 0, (45,))
    after = conversation.after("name", torch.tensor([[1, 2, 7, 0, 0]]))
    assert after.attention_mask.tolist() == [[1] * 5]


def test_answers_are_padded_with_a_stop_where_no_token_pads():
    model = copy.deepcopy(model_of("llava"))
    for config in (model.generation_config, model.config, model.config.get_text_config()):
        config.pad_token_id = None
    model.generation_config.eos_token_id = [5, 6]
    assert prune_inputs(model, batch("llava", "ttItt"), k=2).conversation.padding == 5


def another_conversation(model, family):
    """What somebody else does on the model in between, which leaves an offset of positions on Qwen-VL models."""
    model.generate(**batch(family, "ttItItt"), **GREEDY)


@pytest.mark.parametrize("family", MROPE_FAMILIES)
def test_pruned_inputs_that_begin_with_text_and_go_on_with_an_image(family):
    model, whole = model_of(family), batch(family, "tttt", "tt")
    turn = prune_inputs(model, whole, **PRUNING)
    output = model.generate(**turn, **GREEDY, **OUTPUT)
    for rows in (("ttt", "tttt"), ("tIt", "ttt"), ("tVt", "tIt")):
        another_conversation(model, family)
        second = batch(family, *rows)
        turn = prune_inputs(model, turn.next_turn(output, second), **PRUNING)
        whole = joined(whole, output.sequences[:, -3:], second)
        output = model.generate(**turn, **GREEDY, **OUTPUT)
        assert_as_from_scratch(model, output, whole)


@pytest.mark.parametrize("family", MROPE_FAMILIES)
def test_a_chat_under_enable_pruning_that_begins_with_text_and_goes_on_with_an_image(family):
    model, whole = model_of(family), batch(family, "tttt", "tt")
    with enable_pruning(model, **PRUNING):
        output = model.generate(**whole, **GREEDY, **OUTPUT)
    for rows in (("ttt", "tttt"), ("tIt", "ttt"), ("tVt", "tIt")):
        another_conversation(model, family)
        second = batch(family, *rows)
        whole = joined(whole, output.sequences[:, -3:], second)
        new = {name: value for name, value in whole.items() if name not in PIXELS}
        new |= {name: second[name] for name in PIXELS if name in second}
        with enable_pruning(model, **PRUNING):
            output = model.generate(**new, past_key_values=output.past_key_values, **GREEDY, **OUTPUT)
        assert_as_from_scratch(model, output, whole)


@pytest.mark.parametrize("family", MROPE_FAMILIES)
@torch.no_grad()
def test_a_loop_under_enable_pruning_that_begins_with_text(family):
    model, new = model_of(family), torch.tensor([[7, 9]])
    ids = batch(family, "tttt")["input_ids"]
    with enable_pruning(model, **PRUNING):
        expected = model(torch.cat([ids, new], 1)).logits[:, -2:]
        for call in ({"input_ids": new}, {"inputs_embeds": model.get_input_embeddings()(new)}):
            cache = model(ids, use_cache=True).past_key_values
            another_conversation(model, family)
            logits = model(**call, past_key_values=cache).logits
            torch.testing.assert_close(logits, expected, atol=2e-5, rtol=1e-4)
