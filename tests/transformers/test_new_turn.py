"""What `next_turn` takes for a new turn, and what it refuses in one line."""

import copy
import re

import pytest
import torch

from tests.support.vision_language import IMAGE, NO_TEXT, VIDEO, batch, model_of
from tokenprune_kernels.integrations.transformers import prune_inputs

GREEDY = {"max_new_tokens": 3, "min_new_tokens": 3, "do_sample": False, "suppress_tokens": NO_TEXT}
PRUNING = {"keep_ratio": 0.3}


def first_turn(family, *rows):
    model = model_of(family)
    turn = prune_inputs(model, batch(family, *rows), **PRUNING)
    return model, turn, model.generate(**turn, **GREEDY, return_dict_in_generate=True)


def text(*tokens):
    return {"input_ids": torch.tensor([tokens])}


def refused(error, message):
    return pytest.raises(error, match=f"^next_turn: expected {re.escape(message)}")


@pytest.mark.parametrize("family", ["llava", "internvl", "qwen3_vl"])
@pytest.mark.parametrize("rows", [("ttItt",), ("tttt",), ("ttItt", "tttt")], ids=["image", "text", "batch"])
def test_the_whole_conversation_is_no_new_turn(family, rows):
    """Neither as the processor makes it once more, nor with the sequences that generate returned."""
    _, turn, output = first_turn(family, *rows)
    first = batch(family, *rows)
    answer, new = output.sequences[:, -3:], torch.full((len(rows), 2), 7)
    pixels = {name: value for name, value in first.items() if name.startswith(("pixel", "image"))}
    for prompt in (first["input_ids"], turn.input_ids):
        mask = (prompt != 0).long()
        whole = {
            "input_ids": torch.cat([prompt, answer, new], 1),
            "attention_mask": torch.cat([mask, torch.ones(len(rows), 5, dtype=torch.int64)], 1),
        }
        length = whole["input_ids"].shape[1]
        message = f"input_ids of the new turn alone, got {length} tokens that begin with the first prompt again"
        with refused(ValueError, message):
            turn.next_turn(output, whole | pixels)


def test_the_whole_conversation_of_three_turns_is_no_new_turn():
    model, turn, output = first_turn("llava", "ttItt")
    second = prune_inputs(model, turn.next_turn(output, text(7, 8)), **PRUNING)
    output = model.generate(**second, **GREEDY, return_dict_in_generate=True)
    first = batch("llava", "ttItt")
    for answer in ([5, 6, 7], [90, 91]):  # whichever way the answers come back from text
        whole = first | {"input_ids": torch.cat([first["input_ids"], torch.tensor([[*answer, 7, 8, 9]])], 1)}
        del whole["attention_mask"]
        with refused(ValueError, "input_ids of the new turn alone"):
            second.next_turn(output, whole)


def test_a_new_turn_may_repeat_what_was_said():
    _, turn, output = first_turn("llava", "tttt")
    again = turn.next_turn(output, batch("llava", "tttt"))
    assert again.input_ids.shape == (1, 11)
    _, turn, output = first_turn("llava", "ttItt")
    words = batch("llava", "ttItt")["input_ids"]
    words = words[words != IMAGE][None]
    assert turn.next_turn(output, {"input_ids": torch.cat([words, words], 1)}).input_ids.shape[1] > 8
    assert "pixel_values" in turn.next_turn(output, batch("llava", "ttItt"))


@pytest.mark.parametrize(("family", "token"), [("llava", IMAGE), ("qwen3_vl", IMAGE), ("qwen3_vl", VIDEO)])
def test_placeholders_come_with_pixels(family, token):
    _, turn, output = first_turn(family, "tttt")
    message = "pixel values for the 2 placeholders of images or videos in input_ids, got none"
    for pixels in ({}, {"pixel_values": None}):
        with refused(ValueError, message):
            turn.next_turn(output, text(7, token, token, 8) | pixels)


@pytest.mark.parametrize(
    ("inputs", "error", "message"),
    [
        ({}, ValueError, "input_ids of the new turn alone, of shape [1, n], got none"),
        ({"input_ids": None}, ValueError, "input_ids of the new turn alone, of shape [1, n], got none"),
        (
            {"input_ids": torch.tensor([7, 8])},
            ValueError,
            "input_ids of the new turn alone, of shape [1, n], got shape",
        ),
        ({"input_ids": torch.ones(1, 0).long()}, ValueError, "input_ids of the new turn alone, of shape [1, n], got"),
        ({"input_ids": torch.ones(2, 3).long()}, ValueError, "input_ids of the new turn alone, of shape [1, n], got"),
        ({"input_ids": [[7, 8]]}, TypeError, "input_ids to be a tensor, got list (torch.tensor makes one)"),
        (torch.tensor([[7, 8]]), TypeError, "inputs to be what the processor makes of the new turn, got Tensor"),
        ("and now?", TypeError, "inputs to be what the processor makes of the new turn, got str"),
        (
            text(7, 8) | {"attention_mask": torch.ones(1, 14)},
            ValueError,
            "attention_mask to have the shape of the new turn's input_ids, [1, 2], got shape [1, 14]",
        ),
        (
            text(7, 0) | {"attention_mask": torch.tensor([[1, 0]])},
            ValueError,
            "padding on the left and at least one new token in each row, got an attention_mask that ends in 0",
        ),
        (text(7, 8) | {"attention_mask": [1, 1]}, TypeError, "attention_mask to be a tensor, got list"),
        (text(7, 8) | {"past_key_values": object()}, ValueError, "no past_key_values in inputs"),
        (text(7, 8) | {"position_ids": torch.tensor([[12, 13]])}, ValueError, "no position_ids in inputs"),
    ],
)
def test_what_is_no_new_turn(inputs, error, message):
    _, turn, output = first_turn("llava", "ttItt")
    with refused(error, message):
        turn.next_turn(output, inputs)


def test_a_new_turn_that_is_pruned_already():
    model, turn, output = first_turn("qwen3_vl", "ttItt")
    with refused(ValueError, "what the processor makes of the new turn, got pruned inputs"):
        turn.next_turn(output, prune_inputs(model, batch("qwen3_vl", "tIt"), **PRUNING))


def test_a_refused_turn_may_be_given_again():
    model, turn, output = first_turn("llava", "ttItt")
    with refused(ValueError, "input_ids"):
        turn.next_turn(output, {})
    answer = model.generate(**turn.next_turn(output, text(7, 8)), **GREEDY)
    _, turn, output = first_turn("llava", "ttItt")
    assert torch.equal(model.generate(**turn.next_turn(output, text(7, 8)), **GREEDY), answer)


def test_outputs_that_no_turn_goes_on_from():
    model, turn, _ = first_turn("llava", "ttItt")
    with torch.no_grad(), refused(ValueError, "the output of generate with return_dict_in_generate=True and a cache"):
        turn.next_turn(model(**turn, use_cache=True), text(7, 8))
    beams = model.generate(**turn, **GREEDY, num_beams=2, return_dict_in_generate=True)
    with refused(ValueError, "a cache of 1 rows, one for each prompt and without beams, got 2"):
        turn.next_turn(beams, text(7, 8))
    turn["attention_mask"] = turn.attention_mask.clone().index_fill(1, torch.tensor([0]), 0)
    with refused(ValueError, "inputs as prune_inputs returned them, got another attention_mask"):
        turn.next_turn(model.generate(**turn, **GREEDY, return_dict_in_generate=True), text(7, 8))


@pytest.mark.parametrize("new", [text(7, 8), batch("llava", "tIt")], ids=["text", "image"])
def test_inputs_with_a_cache_are_good_for_one_call(new):
    model, turn, output = first_turn("llava", "ttItt")
    turn = prune_inputs(model, turn.next_turn(output, new), **PRUNING)
    apart = copy.deepcopy(turn)
    answer = model.generate(**turn, **GREEDY)
    gone_on = re.escape("PrunedInputs: expected past_key_values of 11 tokens, as when these inputs were made, got ")
    with pytest.raises(ValueError, match=f"^{gone_on}"):
        model.generate(**turn, **GREEDY)
    cache = turn.data["past_key_values"]
    cache.crop(11 - cache.get_seq_length())
    for each in (turn, apart):
        assert torch.equal(model.generate(**each, **GREEDY), answer)


def test_of_two_turns_from_one_output_one_goes_on():
    model, turn, output = first_turn("llava", "ttItt")
    one, other, image = (turn.next_turn(output, new) for new in (text(7, 8), text(8, 9), batch("llava", "tIt")))
    model.generate(**one, **GREEDY)
    with pytest.raises(ValueError, match=r"^PrunedInputs: expected past_key_values of 11 tokens, as when"):
        model.generate(**other, **GREEDY)
    with pytest.raises(ValueError, match=r"^prune_inputs: expected past_key_values of 11 tokens, as when"):
        prune_inputs(model, image, **PRUNING)


def test_a_cache_of_the_callers_is_good_for_one_call():
    from transformers import DynamicCache

    model = model_of("llava")
    cache = DynamicCache(config=model.config.get_text_config())
    turn = prune_inputs(model, batch("llava", "ttItt") | {"past_key_values": cache}, **PRUNING)
    model.generate(**turn, **GREEDY)
    with pytest.raises(ValueError, match=r"^PrunedInputs: expected past_key_values of 0 tokens, as when"):
        model.generate(**turn, **GREEDY)


def test_a_new_image_is_pruned_first():
    model, turn, output = first_turn("llava", "ttItt")
    with pytest.raises(ValueError, match=r"^PrunedInputs: expected a call of prune_inputs for the new pixel values"):
        model.generate(**turn.next_turn(output, batch("llava", "tIt")), **GREEDY)
