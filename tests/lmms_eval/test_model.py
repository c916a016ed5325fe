"""The model of lmms-eval on tiny checkpoints, where lmms-eval is installed."""

from types import SimpleNamespace

import pytest
import torch

pytest.importorskip("lmms_eval", reason="needs lmms-eval")
pytest.importorskip("bench.accuracy", reason="needs the source tree")

from PIL import Image

from bench.accuracy import model, settings, words
from tokenprune_kernels.integrations.lmms_eval import manifest
from tokenprune_kernels.integrations.transformers import prune_inputs

QUESTIONS = ["is there a red disc", "how many ring", "read the digits"]
BUDGET = {"max_new_tokens": 4, "until": ["\n"]}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoint")
    made = model.untrained(settings.TINY).eval()
    model.save(made, settings.TINY, folder)
    return folder


def picture(number):
    generator = torch.Generator().manual_seed(number)
    return Image.fromarray(torch.randint(256, (84, 84, 3), generator=generator, dtype=torch.uint8).numpy())


def messages_of(document):
    content = [{"type": "image", "url": picture(document)}, {"type": "text", "text": f"{QUESTIONS[document]} ?"}]
    return [{"role": "user", "content": content}]


def loaded(checkpoint, **given):
    from lmms_eval.models.model_utils import gen_metrics  # noqa: F401  # what a run imports

    from tokenprune_kernels.integrations.lmms_eval.model import Tokenprune

    made = Tokenprune(str(checkpoint), device="cpu", **given)
    made.task_dict = {"scenes": {"test": list(range(len(QUESTIONS)))}}
    return made


def answers(made):
    requests = [
        SimpleNamespace(args=(f"{question} ?", messages_of, dict(BUDGET), number, "scenes", "test"))
        for number, question in enumerate(QUESTIONS)
    ]
    return [answer.text for answer in made.generate_until(requests)]


def by_hand(made, number, **options):
    inputs = {
        "input_ids": torch.tensor([words.prompt(QUESTIONS[number], 36)]),
        "pixel_values": model.tower.pixel_values([picture(number)]),
    }
    pruned = prune_inputs(made, inputs, **options) if options else inputs
    output = made.generate(**pruned, max_new_tokens=4, do_sample=False)
    return words.tokenizer().decode(output[0, pruned["input_ids"].shape[1] :], skip_special_tokens=True)


@pytest.mark.parametrize("batch_size", [1, 3])
@pytest.mark.parametrize(
    "given", [{"method": "none"}, {"keep_ratio": 0.25}, {"method": "idpruner", "k": 4, "importance": "cls_attention"}]
)
def test_answers_are_those_of_the_integration(given, batch_size, checkpoint):
    made = model.load(checkpoint)
    options = {} if given.get("method") == "none" else {"method": "divprune", **given}
    expected = [by_hand(made, number, **options) for number in range(len(QUESTIONS))]
    assert answers(loaded(checkpoint, batch_size=batch_size, **given)) == expected


def test_downsampling_is_refused_where_it_would_change_nothing(checkpoint):
    with pytest.raises(ValueError, match="tokens follow the picture's size with method 'downsample', got Llava"):
        loaded(checkpoint, method="downsample", keep_ratio=0.5)


def test_the_manifest_names_the_class():
    from lmms_eval.models.registry_v2 import ModelRegistryV2

    registry = ModelRegistryV2()
    registry.register_manifest(manifest())
    assert registry.get_model_class("tokenprune").__name__ == "Tokenprune"
