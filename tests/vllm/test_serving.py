"""Pruning under what an engine does with many requests: chunks, caches, preemption, encoding in pieces."""

import pytest

pytest.importorskip("vllm")

import torch
from vllm.exceptions import VLLMValidationError

from tests.vllm.engine import running
from tests.vllm.media import Request
from tests.vllm.requests import ENGINE, kinds, mixes
from tests.vllm.test_families import CLOSE
from tokenprune_kernels.integrations.vllm import metrics

pytestmark = pytest.mark.vllm


@pytest.fixture(scope="module", params=["llava", "qwen2_5_vl", pytest.param("qwen3_vl", marks=pytest.mark.slow)])
def engine(request, checkpoints):
    """Steps of 48 tokens cut images into chunks, and 18 blocks of memory hold about three prompts."""
    options = {"max_num_batched_tokens": 48, "num_gpu_blocks_override": 18, "max_model_len": 512}
    with running(request.param, checkpoints, ENGINE, **options) as engine:
        yield engine


def images(engine, seeds, options=None):
    return [Request(("a", f"I{seed}", "and", f"I{seed + 1}", "?"), options) for seed in seeds]


def preemptions(engine, monkeypatch):
    """A list with an entry for every request that is preempted from now on."""
    scheduler = engine.llm.llm_engine.engine_core.engine_core.scheduler
    preempted = []
    preempt = scheduler._preempt_request

    def counted(request, *args, **kwargs):
        preempted.append(request)
        return preempt(request, *args, **kwargs)

    monkeypatch.setattr(scheduler, "_preempt_request", counted)
    return preempted


def test_chunks_and_preemption(engine, monkeypatch):
    preempted = preemptions(engine, monkeypatch)
    assert max(engine.differences(kinds(engine.family))) < CLOSE
    requests = images(engine, range(8), {"keep_ratio": 0.7}) * 2
    assert max(engine.differences(requests)) < CLOSE
    assert max(engine.differences(mixes(engine.family, 8, seed=3))) < CLOSE
    if engine.family == "llava":  # the others' prompts fit
        assert preempted


@pytest.mark.parametrize("family", ["qwen2_5_vl", pytest.param("qwen3_vl", marks=pytest.mark.slow)])
def test_preempted_requests_whose_rows_carry_positions(family, checkpoints, monkeypatch):
    """Eight blocks hold two prompts of four, and a fifth block is needed when they go on."""
    options = {"max_num_batched_tokens": 48, "num_gpu_blocks_override": 9, "max_model_len": 256}
    with running(family, checkpoints, ENGINE, **options) as engine:
        preempted = preemptions(engine, monkeypatch)
        large = range(5, 48, 6)
        requests = [Request(("a", f"I{seed}", "and", f"I{seed + 6}", "?"), {"k": 60}) for seed in large] * 2
        assert max(engine.differences(requests)) < CLOSE
        assert len(preempted) > 4


def test_an_image_that_is_encoded_again_continues_its_blocks(engine, monkeypatch):
    """The encoder's bits may change with its batch. Blocks of the first selection stay right."""
    requests = images(engine, [1], {"keep_ratio": 0.4})
    assert max(engine.differences(requests)) < CLOSE
    model = engine.model
    tokens = type(model)._tokens
    noise = torch.Generator().manual_seed(0)

    def shaken(self, embedding):
        embedding = tokens(self, embedding)
        return embedding + torch.randn(embedding.shape, generator=noise)

    monkeypatch.setattr(type(model), "_tokens", shaken)
    engine.llm.reset_mm_cache()
    engine.llm.llm_engine.reset_encoder_cache()
    longer = [Request((*request.parts, "what", "is", "this"), request.options) for request in requests]
    assert max(engine.differences([*requests, *longer])) < CLOSE
    engine.llm.reset_prefix_cache()
    # Another budget is another selection: with noise, not that of transformers.
    assert max(engine.differences(images(engine, [1], {"keep_ratio": 0.41}))) > CLOSE
    engine.llm.reset_prefix_cache()


def test_the_encoder_takes_no_more_than_it_was_measured_with(engine, monkeypatch):
    """Pruned, eight images fit a step; the encoder gets them in pieces."""
    base = next(cls for cls in type(engine.model).__mro__ if cls.__module__.startswith("vllm."))
    encode = base.embed_multimodal
    sizes = []

    def recorded(self, **kwargs):
        embeddings = encode(self, **kwargs)
        sizes.append([len(each) for each in embeddings])
        return embeddings

    monkeypatch.setattr(base, "embed_multimodal", recorded)
    engine.llm.reset_mm_cache()
    engine.llm.llm_engine.reset_encoder_cache()
    engine.llm.reset_prefix_cache()
    requests = [Request((f"I{seed}", "?"), {"k": 2}) for seed in range(10, 18)]
    assert max(engine.differences(requests)) < CLOSE
    most = engine.model._encoder_tokens
    assert all(sum(size) <= most or len(size) == 1 for size in sizes)
    assert sum(map(len, sizes)) == 8


def test_tokens_are_counted(engine):
    tokens, kept = (counter.labels("image") for counter in metrics._counters())
    before = tokens._value.get(), kept._value.get()
    engine.answers([Request(("a", "I31", "?"), {"k": 2})])
    assert kept._value.get() - before[1] == 2
    assert tokens._value.get() - before[0] > 2


def test_embeddings_in_place_of_pixels(checkpoints):
    """They are pruned like those of the encoder."""
    from tests.vllm.oracle import prepared

    with running("llava", checkpoints, ENGINE, enable_mm_embeds=True) as engine:
        from vllm import SamplingParams

        request = Request(("a", "I1", "?"))
        pixels = prepared("llava", engine.path, request)["pixel_values"]
        model = engine.model
        with torch.no_grad():
            embeddings = super(type(model), model)._process_image_input(
                {"type": "pixel_values", "pixel_values": pixels}
            )
        prompt = {"prompt": "<s> a <image> ?", "multi_modal_data": {"image": embeddings}}
        sampling = SamplingParams(temperature=0, max_tokens=6, ignore_eos=True)
        (given,) = engine.llm.generate([prompt], sampling, use_tqdm=False)
        (encoded,) = engine.answers([request])
        assert list(given.outputs[0].token_ids) == encoded.tokens
        assert len(given.prompt_token_ids) == encoded.length
        with pytest.raises(VLLMValidationError, match="expected pixels with 'cls_attention', got image embeddings"):
            engine.llm.generate(
                [
                    prompt
                    | {
                        "mm_processor_kwargs": {
                            "tokenprune": {"method": "idpruner", "importance": "cls_attention", "k": 3}
                        }
                    }
                ],
                sampling,
                use_tqdm=False,
            )


def test_a_video_may_have_a_budget_of_its_own(checkpoints):
    tokenprune = {"keep_ratio": 0.5, "video": {"k": 4}}
    with running("qwen2_5_vl", checkpoints, tokenprune) as engine:
        image, video, both = Request(("a", "I1", "?")), Request(("a", "V1", "?")), Request(("I1", "on", "V1", "?"))
        lengths = [answer.length for answer in engine.answers([image, video, both])]
        assert max(engine.differences([image._replace(options={"keep_ratio": 0.5})])) < CLOSE
        assert max(engine.differences([video._replace(options={"k": 4})])) < CLOSE
        assert lengths[1] == 4 + 4
        assert lengths[2] == lengths[0] + 4 + 2
