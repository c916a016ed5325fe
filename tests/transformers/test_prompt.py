"""The callbacks and limits given to ``generate``: under pruning, they refer to the whole prompt."""

import copy

import pytest
import torch

from tests.support.vision_language import NO_TEXT, batch, every_family_slow_but, model_of, rows_of
from tokenprune_kernels.integrations.transformers import enable_pruning, prune_inputs

transformers = pytest.importorskip("transformers")

OPTIONS = {"do_sample": False, "suppress_tokens": NO_TEXT}
PRUNING = {"keep_ratio": 0.3}


class Seen:
    """A stopping criterion, logits processor, constraint and streamer that keeps the prompts it is shown."""

    def __init__(self, length, most=None):
        self.length, self.most, self.prompts, self.rows = length, most, [], set()

    def __call__(self, input_ids, scores, **options):
        self.prompts.append(input_ids[:, : self.length])
        if self.most is None:
            return scores
        return torch.full((len(input_ids),), input_ids.shape[1] - self.length >= self.most)

    def allowed(self, row, input_ids):
        self.rows.add(row)
        self.prompts.append(input_ids[: self.length])
        return [7, 8, 9]

    def put(self, value):
        self.prompts.append(value)

    def end(self):
        pass


def lists(criteria=(), processors=()):
    return {
        "stopping_criteria": transformers.StoppingCriteriaList(criteria),
        "logits_processor": transformers.LogitsProcessorList(processors),
    }


@pytest.mark.parametrize("beams", [1, 2])
@pytest.mark.parametrize("family", every_family_slow_but("llava", "internvl", "qwen3_vl"))
def test_criteria_and_processors_see_the_whole_prompt(family, beams):
    model, inputs = model_of(family), batch(family, *rows_of(family))
    prompt = inputs["input_ids"]
    criterion, processor = Seen(prompt.shape[1], most=2), Seen(prompt.shape[1])
    with enable_pruning(model, **PRUNING):
        result = model.generate(
            **inputs, **OPTIONS, **lists([criterion], [processor]), max_new_tokens=6, num_beams=beams
        )
    assert result.shape[1] == prompt.shape[1] + 2
    for seen in (*criterion.prompts, *processor.prompts):  # beam search shows criteria more rows than it keeps
        assert torch.equal(seen, prompt.repeat_interleave(len(seen) // len(prompt), dim=0))
    assert {len(seen) for seen in processor.prompts} == {beams * len(prompt)}


@pytest.mark.parametrize("options", [{"num_beams": 2}, {"do_sample": True, "num_return_sequences": 2}, {}], ids=str)
def test_a_constraint_sees_the_whole_prompt(options):
    model, inputs = model_of("llava"), batch("llava", "ttIt", "It")
    prompt = inputs["input_ids"]
    seen = Seen(prompt.shape[1])
    copies = options.get("num_return_sequences", 1)

    def allowed(row, input_ids):
        assert torch.equal(input_ids[: prompt.shape[1]], prompt[row // copies])
        return seen.allowed(row, input_ids)

    with enable_pruning(model, **PRUNING):
        result = model.generate(**inputs, **OPTIONS | options, prefix_allowed_tokens_fn=allowed, max_new_tokens=3)
    assert set(result[:, prompt.shape[1] :].flatten().tolist()) <= {7, 8, 9}
    assert seen.rows == set(range(2 * copies))


def test_a_streamer_is_given_the_whole_prompt():
    model, inputs = model_of("llava"), batch("llava", "ttIt")
    seen = Seen(0)
    with enable_pruning(model, **PRUNING):
        result = model.generate(**inputs, **OPTIONS, streamer=seen, max_new_tokens=3)
    assert torch.equal(torch.cat([each.flatten() for each in seen.prompts]), result[0])


def test_limits_that_the_model_itself_sets_hold_beside_a_configuration_without_any():
    model, inputs = copy.deepcopy(model_of("llava")), batch("llava", "ttIt")
    length = inputs["input_ids"].shape[1]
    model.generation_config.max_length = length + 5
    model.generation_config.suppress_tokens = NO_TEXT
    config = transformers.GenerationConfig(do_sample=False, suppress_tokens=NO_TEXT)
    unpruned = model.generate(**inputs, generation_config=config)
    with enable_pruning(model, **PRUNING):
        assert model.generate(**inputs, generation_config=config).shape == unpruned.shape == (1, length + 5)


@pytest.mark.parametrize("family", every_family_slow_but("llava", "llava_onevision", "qwen3_vl"))
def test_pruned_inputs_that_are_pruned_again_stay_as_they_are(family):
    model, inputs = model_of(family), batch(family, *rows_of(family))
    pruned = prune_inputs(model, inputs, **PRUNING)
    again = prune_inputs(model, pruned, keep_ratio=0.5)
    results = [model.generate(**each, **OPTIONS, max_new_tokens=3, num_beams=2) for each in (pruned, again, again)]
    assert torch.equal(results[1], results[0])
    assert torch.equal(results[2], results[0])
