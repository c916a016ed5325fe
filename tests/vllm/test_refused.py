"""What is refused: in one line, at engine start or for the request alone."""

import pytest

pytest.importorskip("vllm")

import vllm
from safetensors.torch import save_file
from vllm.exceptions import VLLMValidationError

from tests.vllm.engine import prompt, running
from tests.vllm.media import Request
from tests.vllm.oracle import NEW_TOKENS
from tokenprune_kernels.integrations.vllm import requirement
from tokenprune_kernels.vision_selector import VisionSelectorScorer

pytestmark = pytest.mark.vllm
IMAGE = Request(("a", "I1", "?"))


def start(checkpoints, family, tokenprune, **options):
    with running(family, checkpoints, tokenprune, **options):
        pass


@pytest.mark.parametrize(
    ("family", "tokenprune", "message"),
    [
        ("llava", {"keep_ratio": 1.5}, r"expected keep_ratio to be in \(0, 1\], got 1.5"),
        (
            "qwen2_vl",
            {"k": 3, "method": "idpruner", "importance": "cls_attention"},
            "among norm, vision_selector for Qwen2VLForConditionalGeneration with .*, got 'cls_attention'",
        ),
    ],
)
def test_an_engine_with_a_wrong_option_does_not_start(family, tokenprune, message, checkpoints):
    with pytest.raises((ValueError, RuntimeError), match=message):
        start(checkpoints, family, tokenprune)


def test_a_scorer_of_another_width_is_refused(checkpoints, tmp_path):
    save_file(VisionSelectorScorer(24, 8).state_dict(), tmp_path / "scorer.safetensors")
    scorer = {"method": "idpruner", "importance": "vision_selector", "scorer": str(tmp_path / "scorer.safetensors")}
    message = "expected scorer to have weights for tokens with 64 features, got those for 24"
    with pytest.raises((ValueError, RuntimeError), match=message):
        start(checkpoints, "llava", {"keep_ratio": 0.5, **scorer})


def test_requests_are_refused_alone(checkpoints):
    with running("qwen2_5_vl", checkpoints, None) as engine:
        with pytest.raises(
            VLLMValidationError, match="expected an engine that was started with it, got it in a request only"
        ):
            engine.answers([IMAGE._replace(options={"k": 3})])
        assert len(engine.answers([IMAGE])[0].tokens) == NEW_TOKENS
    with running("qwen2_5_vl", checkpoints, {"keep_ratio": 0.5}) as engine:
        for text in ("a <|image_pad|>", "<|image_pad|><|image_pad|> ?"):
            data = prompt("qwen2_5_vl", Request(("I1", "on", "I2")[: 1 if "><" not in text else 3]))
            with pytest.raises(VLLMValidationError, match="expected text after every image and video, got none"):
                engine.llm.generate([data | {"prompt": text}], use_tqdm=False)
        with pytest.raises(VLLMValidationError, match="expected the engine's scorer in a request, got another"):
            engine.answers([IMAGE._replace(options={"scorer": "elsewhere"})])
        with pytest.raises(
            VLLMValidationError, match="expected an importance or relevance among norm, vision_selector"
        ):
            engine.answers(
                [IMAGE._replace(options={"method": "idpruner", "importance": "cls_attention", "keep_ratio": 0.5})]
            )
        assert max(engine.differences([IMAGE])) < 1e-4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"enable_lora": True, "enable_tower_connector_lora": True},
            "expected adapters of the language model alone, got enable_tower_connector_lora",
        ),
        (
            {"compilation_config": {"cudagraph_mm_encoder": True}},
            "expected no CUDA graphs of the encoder, got cudagraph_mm_encoder",
        ),
        ({"video_pruning_rate": 0.5}, r"expected no video_pruning_rate beside it, got 0\.5"),
    ],
)
def test_what_would_go_wrong_in_silence_is_refused(options, message, checkpoints):
    with pytest.raises((ValueError, RuntimeError), match=message):
        start(checkpoints, "qwen2_5_vl", {"keep_ratio": 0.5}, **options)


@pytest.mark.parametrize(
    ("version", "supported"), [("0.30.1", False), ("0.31.0", True), ("0.33.2", True), ("0.34.0", False)]
)
def test_versions(version, supported, monkeypatch):
    monkeypatch.setattr(vllm, "__version__", version)
    assert (requirement.unsupported_version() is None) == supported
    monkeypatch.setenv("TOKENPRUNE_ANY_VLLM", "1")
    assert requirement.unsupported_version() is None


def test_a_missing_seam_is_named(monkeypatch):
    requirement.check_seams()
    monkeypatch.setitem(requirement.SEAMS, "vllm.multimodal.hasher:MultiModalHasher", ("hash_kwargs", "gone"))
    with pytest.raises(
        ImportError, match=r"expected a vllm with vllm\.multimodal\.hasher:MultiModalHasher\.gone, got vllm"
    ):
        requirement.check_seams()
