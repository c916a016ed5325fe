"""The option `tokenprune`, without vLLM."""

import contextlib
from types import SimpleNamespace

import pytest

from tokenprune_kernels.integrations.vllm import engine as engines
from tokenprune_kernels.integrations.vllm.options import Budget, Options, merged, parsed

HALF = Budget(keep_ratio=0.5)


@pytest.mark.parametrize(
    ("given", "budgets"),
    [
        ({"keep_ratio": 0.5}, {"image": HALF, "video": HALF}),
        ({"k": 7}, {"image": Budget(k=7), "video": Budget(k=7)}),
        ({"k": 7, "video": {"keep_ratio": 0.5}}, {"image": Budget(k=7), "video": HALF}),
        ({"video": {"keep_ratio": 0.5}}, {"video": HALF}),
        ({"keep_ratio": 0.5, "image": False}, {"video": HALF}),
        (False, {}),
    ],
)
def test_budgets(given, budgets):
    assert parsed(given).budgets == budgets


def test_a_budget_is_that_of_prune_inputs():
    assert Budget(k=5).kept([3, 10]) == [3, 5]
    assert Budget(keep_ratio=0.25).kept([1, 2, 10, 576]) == [1, 1, 2, 144]


def test_defaults():
    options = parsed({"k": 1})
    assert (options.method, options.weight, options.lam) == ("divprune", None, None)
    options = parsed({"k": 1, "method": "idpruner", "importance": "norm", "lam": 1})
    assert (options.method, options.weight, options.lam) == ("idpruner", "norm", 1.0)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("0.5", "expected a mapping of options or false, got '0.5'"),
        ({"keep": 0.5}, "expected options among .*, got 'keep'"),
        ({}, "expected exactly one of k and keep_ratio to be given, got k=None and keep_ratio=None"),
        ({"k": 1, "keep_ratio": 0.5}, "expected exactly one of k and keep_ratio to be given"),
        ({"k": 0}, "expected k to be at least 1, got 0"),
        ({"k": 1.5}, "expected k to be an integer, got 1.5"),
        ({"k": [1, 2]}, r"expected k to be one number, got \[1, 2\]"),
        ({"keep_ratio": 0}, r"expected keep_ratio to be in \(0, 1\], got 0"),
        ({"keep_ratio": "half"}, "expected keep_ratio to be a number, got 'half'"),
        ({"video": {}}, "expected exactly one of k and keep_ratio to be given, got k=None and keep_ratio=None"),
        ({"image": False}, "expected exactly one of k and keep_ratio to be given, got k=None and keep_ratio=None"),
        ({"keep_ratio": 0.5, "video": {}}, "expected exactly one of k and keep_ratio to be given, got k=None"),
        ({"k": 1, "image": 3}, "expected image to be a mapping with k or keep_ratio, or false, got 3"),
        ({"k": 1, "video": {"ratio": 1}}, "expected video to have k or keep_ratio, got 'ratio'"),
        ({"k": 1, "method": "random"}, "expected method to be one of divprune, .*, got 'random'"),
        ({"k": 1, "method": "idpruner"}, "expected importance to be one of norm, .* with 'idpruner', got none"),
        ({"k": 1, "method": "mmr", "relevance": "text"}, "encodes an image once for all prompts"),
        ({"k": 1, "method": "mmr", "importance": "norm"}, "expected relevance to be one of norm, .* got none"),
        ({"k": 1, "importance": "norm"}, "expected importance to be None with method 'divprune', got norm"),
        ({"k": 1, "lam": 0.5}, "expected lam to be None with method 'divprune', got 0.5"),
        ({"k": 1, "method": "mmr", "relevance": "norm", "lam": 2}, r"expected lam to be a number in \[0, 1\], got 2"),
        ({"k": 1, "method": "idpruner", "importance": "vision_selector"}, "expected scorer, .* got none"),
        ({"k": 1, "method": "dpp", "relevance": "vision_selector", "scorer": "x"}, "that is not negative"),
    ],
)
def test_wrong_options(given, message):
    with pytest.raises((TypeError, ValueError), match=f"^tokenprune: .*{message}"):
        parsed(given)


@pytest.mark.parametrize(
    ("engine", "request_", "result"),
    [
        ({"k": 5}, {"keep_ratio": 0.5}, {"keep_ratio": 0.5}),
        ({"k": 5, "video": {"k": 9}}, {"k": 7}, {"k": 7}),
        ({"k": 5, "video": {"k": 9}}, {"video": {"k": 1}}, {"k": 5, "video": {"k": 1}}),
        ({"k": 5, "method": "mmr", "relevance": "norm"}, {"method": "divprune"}, {"k": 5, "method": "divprune"}),
        (
            {"k": 5, "method": "mmr", "relevance": "norm"},
            {"lam": 1},
            {"k": 5, "method": "mmr", "relevance": "norm", "lam": 1},
        ),
        ({"k": 5}, False, False),
        (None, {"k": 5}, {"k": 5}),
    ],
)
def test_a_request_is_merged_over_its_engine(engine, request_, result):
    assert merged(engine, request_) == result


def test_equal_options_have_one_identity():
    assert (
        parsed({"k": 5}).identity() == parsed({"method": "divprune", "image": {"k": 5}, "video": {"k": 5}}).identity()
    )
    assert parsed({"k": 5}).identity() != parsed({"k": 6}).identity()


@pytest.mark.parametrize(
    "given",
    [
        False,
        {"keep_ratio": 0.5, "video": {"k": 7}},
        {
            "k": 5,
            "method": "idpruner",
            "importance": "vision_selector",
            "lam": 0.3,
            "scorer": "a",
            "scorer_prefix": "b.",
        },
    ],
)
def test_an_identity_says_all(given):
    assert Options.identified(parsed(given).identity()) == parsed(given)


def model_config(overrides=None, **multimodal):
    multimodal = {"mm_processor_kwargs": None, "video_pruning_rate": None, "mm_encoder_tp_mode": "weights"} | multimodal
    config = SimpleNamespace(**multimodal)
    hf_config = SimpleNamespace(**({} if overrides is None else {"tokenprune": overrides}))
    return SimpleNamespace(hf_config=hf_config, get_multimodal_config=lambda: config)


def test_an_engine_without_the_option_is_not_pruned():
    assert engines.engine_options(model_config()) is None
    assert engines.engine_options(model_config(mm_processor_kwargs={"tokenprune": False})) is None


def test_an_engine_hides_the_option_from_processors_of_transformers():
    config = model_config({"k": 3, "lam": 1}, mm_processor_kwargs={"tokenprune": {"keep_ratio": 0.5}, "fps": 2})
    with pytest.raises(ValueError, match="expected lam to be None"):
        engines.engine_options(config)
    assert config.get_multimodal_config().mm_processor_kwargs == {"fps": 2}
    assert engines.given_options(config) == {"keep_ratio": 0.5, "lam": 1}
    assert engines.given_options(config) == {"keep_ratio": 0.5, "lam": 1}


def test_vllms_own_pruning_does_not_go_with_it():
    with pytest.raises(ValueError, match=r"expected no video_pruning_rate beside it, got 0\.5"):
        engines.engine_options(model_config({"k": 3}, video_pruning_rate=0.5))


class Model:
    class_token_towers = ("clip_vision_model",)


@pytest.mark.parametrize(
    ("tower", "mode", "message"),
    [
        ("clip_vision_model", "weights", None),
        ("siglip_vision_model", "weights", "among norm, vision_selector for Model with siglip_vision_model, got"),
        ("clip_vision_model", "data", "expected mm_encoder_tp_mode 'weights' with 'cls_attention', got 'data'"),
    ],
)
def test_class_attention_needs_a_class_token(tower, mode, message):
    config = model_config(mm_encoder_tp_mode=mode)
    config.hf_config.vision_config = SimpleNamespace(model_type=tower)
    options = parsed({"k": 1, "method": "idpruner", "importance": "cls_attention"})
    with contextlib.nullcontext() if message is None else pytest.raises(ValueError, match=message):
        engines.check_weight(options, Model, config)
