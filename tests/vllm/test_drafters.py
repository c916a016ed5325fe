"""Speculative decoding with drafters that have weights: it changes no answer."""

import pytest

pytest.importorskip("vllm")

import torch

from tests.vllm.drafters import READS_IMAGES, drafted
from tests.vllm.engine import load_classes, running
from tests.vllm.media import Request
from tests.vllm.requests import ENGINE, kinds, mixes
from tests.vllm.test_families import CLOSE
from tests.vllm.tiny import saved
from tokenprune_kernels.integrations.vllm import registration

pytestmark = pytest.mark.vllm
STEPS = {"max_num_batched_tokens": 64}  # cut images into chunks, of which a drafter sees a token more


def recorded(monkeypatch, model):
    """A list with the rows of images that a model gets from now on."""
    rows = []
    embed = model.embed_input_ids

    def embed_input_ids(input_ids, multimodal_embeddings=None, is_multimodal=None):
        rows.extend(multimodal_embeddings or ())
        return embed(input_ids, multimodal_embeddings=multimodal_embeddings, is_multimodal=is_multimodal)

    monkeypatch.setattr(model, "embed_input_ids", embed_input_ids)
    return rows


def assert_answers(engine):
    assert max(engine.differences(kinds(engine.family))) < CLOSE
    assert max(engine.differences(kinds(engine.family)[::-1])) < CLOSE
    assert max(engine.differences(mixes(engine.family, 10, seed=5))) < CLOSE
    counted = {metric.name: metric.value for metric in engine.llm.get_metrics() if hasattr(metric, "value")}
    assert counted["vllm:spec_decode_num_draft_tokens"] > 0


@pytest.mark.slow
@pytest.mark.parametrize("family", ["llava", "qwen2_5_vl"])
def test_a_drafter_that_reads_images(family, checkpoints, monkeypatch):
    """It gets the rows that the model gets, without further columns."""
    speculation = {"speculative_config": drafted(READS_IMAGES, checkpoints), "disable_log_stats": False}
    with running(family, checkpoints, ENGINE, **speculation, **STEPS) as engine:
        drafter = engine.llm.llm_engine.model_executor.driver_worker.worker.model_runner.drafter
        assert drafter.supports_mm_inputs
        with monkeypatch.context() as patch:
            models, drafters = recorded(patch, engine.model), recorded(patch, drafter.model)
            engine.answers([Request(("a", "I1", "and", "I2", "?"), {"k": 5})])
            assert torch.equal(torch.cat(models), torch.cat(drafters))
            assert torch.cat(models).shape == (10, drafter.hidden_size)
        assert_answers(engine)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "name"),
    [
        ("llava", "eagle"),
        ("llava", "eagle3"),
        ("llava", "draft model"),
        ("llava", "medusa"),
        ("qwen2_5_vl", "eagle3"),
        ("qwen2_5_vl", "draft model"),
        ("qwen3_vl", "eagle3"),
    ],
)
def test_a_drafter_of_text(family, name, checkpoints):
    speculation = {"speculative_config": drafted(name, checkpoints), "disable_log_stats": False}
    with running(family, checkpoints, ENGINE, **speculation, **STEPS) as engine:
        drafter = engine.llm.llm_engine.model_executor.driver_worker.worker.model_runner.drafter
        assert not getattr(drafter, "supports_mm_inputs", False)
        assert_answers(engine)


@pytest.mark.parametrize("family", ["qwen3_vl", "llava"])
def test_where_vllm_fails_with_rows_of_images_a_drafter_that_reads_them_is_refused(family, checkpoints):
    """The features of deeper layers of Qwen3-VL, and a model as its own draft model."""
    speculation = drafted(READS_IMAGES, checkpoints)
    if family == "llava":
        path = str(saved(family, checkpoints))
        speculation = {"method": "draft_model", "model": path, "num_speculative_tokens": 3}
    message = "expected a drafter of text alone for .*ForConditionalGeneration, got .*, which reads images"
    refused = pytest.raises((ValueError, RuntimeError), match=message)
    with refused, running(family, checkpoints, ENGINE, speculative_config=speculation):
        pass


def test_classes_have_the_names_of_those_of_vllm():
    """By them, vLLM knows which token of a model with a drafter stands for an image."""
    load_classes()
    for architecture, own in registration.OWN.items():
        assert registration.model_class(architecture).__name__ == own.load_model_cls().__name__
