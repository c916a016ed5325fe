"""Errors of the transformers integration: wrong options, wrong inputs, and a transformers that is too old."""

import importlib
import re
import subprocess
import sys

import pytest
import torch

from tests.support.vision_language import FAMILIES, IMAGE, MROPE_FAMILIES, batch, model_of
from tokenprune_kernels.integrations import transformers as integration
from tokenprune_kernels.integrations.transformers import enable_pruning, prune_inputs

W = torch.ones(16)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({}, ValueError, "exactly one of k and keep_ratio to be given, got k=None and keep_ratio=None"),
        ({"k": 1, "keep_ratio": 0.5}, ValueError, "exactly one of k and keep_ratio to be given, got k=1 and"),
        ({"keep_ratio": 0.0}, ValueError, "keep_ratio to be in (0, 1], got 0"),
        ({"keep_ratio": 1.5}, ValueError, "keep_ratio to be in (0, 1], got 1.5"),
        ({"keep_ratio": float("nan")}, ValueError, "keep_ratio to be in (0, 1], got nan"),
        ({"keep_ratio": "0.5"}, TypeError, "keep_ratio to be a number, got '0.5'"),
        ({"keep_ratio": [0.5, 0.5]}, ValueError, "keep_ratio to be one number or 1, one per image or video, got 2"),
        ({"k": 0}, ValueError, "k to be at least 1, got 0"),
        ({"k": 2.5}, TypeError, "k to be an integer, got 2.5"),
        ({"k": [3, 4]}, ValueError, "k to be one number or 1, one per image or video, got 2 numbers"),
        ({"k": 3, "scope": "image"}, ValueError, "scope to be 'item' or 'batch', got 'image'"),
        ({"k": 3, "positions": "gapped"}, ValueError, "positions to be 'contiguous' or 'original' for Llava"),
        ({"k": 3, "method": "fastv"}, ValueError, "method to be one of divprune, mmr, idpruner, dpp, got 'fastv'"),
        ({"k": 3, "method": "idpruner"}, ValueError, "importance to be a tensor with method 'idpruner', got None"),
        ({"k": 3, "method": "dpp"}, ValueError, "relevance to be a tensor with method 'dpp', got None"),
        ({"k": 3, "method": "dpp", "relevance": -W}, ValueError, "relevance to be at least 0 with method 'dpp', got "),
        (
            {"k": 3, "method": "dpp", "relevance": W, "lam": 0.5},
            ValueError,
            "lam to be None with method 'dpp', got 0.5",
        ),
        ({"k": 3, "importance": W}, ValueError, "importance to be None with method 'divprune', got a tensor"),
        ({"k": 3, "lam": 0.5}, ValueError, "lam to be None with method 'divprune', got 0.5"),
        (
            {"k": 3, "method": "idpruner", "importance": "attention"},
            ValueError,
            "importance to be a tensor, a callable or one of norm, text, cls_attention, got 'attention'",
        ),
        ({"k": 3, "method": "mmr", "relevance": 3}, TypeError, "relevance to be a tensor, a callable or one of"),
        (
            {"k": 3, "method": "idpruner", "importance": W[:15]},
            ValueError,
            "importance to have shape [16] or [1, 16], one weight for each visual token, got shape [15]",
        ),
        (
            {"k": 3, "method": "mmr", "relevance": [W, W]},
            ValueError,
            "relevance to have 1 tensors, one for each image or video, got 2",
        ),
        (
            {"k": 3, "method": "idpruner", "importance": lambda tokens: tokens},
            ValueError,
            "importance of image or video 0 to have shape [16], got shape [16, 32]",
        ),
        ({"k": 3, "method": "idpruner", "importance": W.int()}, TypeError, "importance to be float16, bfloat16"),
        (
            {"k": 3, "method": "idpruner", "importance": [W.int()]},
            TypeError,
            "importance of image or video 0 to be float16, bfloat16, float32 or float64, got int32",
        ),
        (
            {"k": 3, "method": "idpruner", "importance": W.numpy()},
            TypeError,
            "importance to be a tensor, a callable or one of norm, text, cls_attention, got ndarray (torch.from_numpy",
        ),
        (
            {"k": 3, "method": "mmr", "relevance": [W.numpy()]},
            TypeError,
            "relevance of image or video 0 to be a tensor, got ndarray (torch.from_numpy makes one)",
        ),
        (
            {"k": 3, "method": "dpp", "relevance": (W.tolist(),)},
            TypeError,
            "relevance of image or video 0 to be a tensor, got list (torch.tensor makes one)",
        ),
        (
            {"k": 3, "method": "idpruner", "importance": W.tolist()},
            TypeError,
            "importance to be a tensor, got list (torch.tensor makes one)",
        ),
        (
            {"k": 3, "method": "idpruner", "importance": [None]},
            TypeError,
            "importance of image or video 0 to be a tensor, got None",
        ),
        (
            {"k": 3, "method": "idpruner", "importance": [W.to_sparse()]},
            TypeError,
            "importance of image or video 0 to be a dense tensor, got layout torch.sparse_coo (to_dense() makes one)",
        ),
        (
            {"k": 3, "method": "mmr", "relevance": W.to_sparse()},
            TypeError,
            "relevance to be a dense tensor, got layout torch.sparse_coo (to_dense() makes one)",
        ),
        (
            {"k": 3, "method": "idpruner", "importance": lambda tokens: tokens[:, 0].detach().numpy()},
            TypeError,
            "importance of image or video 0 to be a tensor, got ndarray (torch.from_numpy makes one)",
        ),
        (
            {"k": 3, "method": "idpruner", "importance": lambda tokens: tokens[:, 0].tolist()},
            TypeError,
            "importance of image or video 0 to be a tensor, got list (torch.tensor makes one)",
        ),
        ({"k": 3, "method": "idpruner", "importance": W, "lam": 2.0}, ValueError, "lam to be in [0, 1], got 2"),
        ({"k": 3, "method": "idpruner", "importance": W, "lam": "a"}, TypeError, "lam to be a number, got 'a'"),
        ({"k": 3, "method": "idpruner", "importance": W, "lam": True}, TypeError, "lam to be a number, got True"),
    ],
)
def test_options(options, error, message):
    with pytest.raises(error, match=re.escape(f"expected {message}")):
        prune_inputs(model_of("llava"), batch("llava", "tIt"), **options)
    with pytest.raises(error, match=re.escape(f"expected {message}")), enable_pruning(model_of("llava"), **options):
        model_of("llava")(**batch("llava", "tIt"))
    assert "generate" not in vars(model_of("llava"))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"keep_ratio": 1.5},
        {"k": [3, 0]},
        {"k": 3, "scope": "all"},
        {"k": 3, "method": "idpruner", "importance": "l2"},
        {"k": 3, "method": "idpruner", "importance": [W, W.numpy()]},
        {"k": 3, "method": "mmr", "relevance": W.to_sparse()},
    ],
)
def test_wrong_options_are_refused_when_pruning_is_enabled(options):
    with pytest.raises((ValueError, TypeError), match=r"^prune_inputs: expected "):
        enable_pruning(model_of("llava"), **options)
    assert "generate" not in vars(model_of("llava"))


def test_unknown_options_are_refused():
    with pytest.raises(TypeError, match="ratio"):
        enable_pruning(model_of("llava"), ratio=0.5)


@pytest.mark.parametrize("family", FAMILIES)
def test_placeholders_have_to_match_the_tokens(family):
    inputs = batch(family, "tIt")
    count = int((inputs["input_ids"] == IMAGE).sum())
    for missing in (1, count):
        places = (inputs["input_ids"][0] == IMAGE).nonzero()[:missing, 0]
        wrong = inputs | {"input_ids": inputs["input_ids"].index_fill(1, places, 7)}
        message = f"expected input_ids to have {count} image placeholders, one for each token .* got {count - missing}"
        with pytest.raises(ValueError, match=message):
            prune_inputs(model_of(family), wrong, keep_ratio=0.5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"input_ids": None}, "input_ids of shape [B, L] beside the pixel values, got none"),
        ({"input_ids": torch.ones(3).long()}, "input_ids of shape [B, L] beside the pixel values, got shape [3]"),
        ({"attention_mask": torch.ones(1, 5)}, "attention_mask to have the shape of input_ids, [1, 18], got shape"),
        ({"pixel_values_videos": torch.ones(1)}, "no pixel_values_videos for LlavaForConditionalGeneration"),
        ({"mm_encoder_outputs": {}}, "no mm_encoder_outputs beside pixel values"),
    ],
)
def test_inputs(change, message):
    with pytest.raises(ValueError, match=re.escape(f"prune_inputs: expected {message}")):
        prune_inputs(model_of("llava"), batch("llava", "tIt") | change, keep_ratio=0.5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda inputs: {"pixel_values": inputs["pixel_values"].numpy()}, "pixel_values to be a tensor, got ndarray"),
        (
            lambda inputs: {"pixel_values": list(inputs["pixel_values"].numpy())},
            "pixel_values of image 0 to be a tensor, got ndarray (torch.from_numpy makes one)",
        ),
        (
            lambda inputs: {"pixel_values": inputs["pixel_values"].tolist()},
            "pixel_values of image 0 to be a tensor, got list (torch.tensor makes one)",
        ),
        (lambda inputs: {"pixel_values": []}, "pixel_values to be a tensor, got list (torch.tensor makes one)"),
        (lambda inputs: {"input_ids": inputs["input_ids"].tolist()}, "input_ids to be a tensor, got list"),
        (lambda inputs: {"input_ids": inputs["input_ids"].numpy()}, "input_ids to be a tensor, got ndarray"),
    ],
)
def test_inputs_that_are_no_tensors(change, message):
    inputs = batch("llava", "tIt")
    with pytest.raises(TypeError, match=re.escape(f"prune_inputs: expected {message}")):
        prune_inputs(model_of("llava"), inputs | change(inputs), keep_ratio=0.5)


@pytest.mark.parametrize("family", MROPE_FAMILIES)
def test_positions_in_three_dimensions_stay(family):
    message = "expected positions to be 'original' for Qwen.*, got 'contiguous'"
    with pytest.raises(ValueError, match=message):
        prune_inputs(model_of(family), batch(family, "tIt"), k=2, positions="contiguous")


def test_an_unsupported_model_is_told_which_are_supported():
    names = "LlavaForConditionalGeneration, LlavaNextForConditionalGeneration, .*InternVLForConditionalGeneration"
    for call in (lambda model: prune_inputs(model, {}, k=2), lambda model: enable_pruning(model, k=2)):
        with pytest.raises(TypeError, match=f"expected one of {names}, got Linear"):
            call(torch.nn.Linear(2, 2))


def test_the_package_and_its_importance_import_torch_alone():
    optional = {"transformers", "safetensors", "huggingface_hub"}
    program = f"import sys, tokenprune_kernels.importance; assert not {optional} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", program], check=True)


def refusal(got):
    message = f"tokenprune_kernels.integrations.transformers: expected transformers >= 5.19, got {got}"
    return pytest.raises(ImportError, match=f"^{re.escape(message)}$")


@pytest.mark.parametrize("version", ["4.57.1", "5.2.0", "5.18.2"])
def test_an_older_transformers_is_refused(monkeypatch, version):
    monkeypatch.setattr("transformers.__version__", version)  # transformers may have reloaded itself
    with refusal(version):
        importlib.reload(integration)


def test_a_missing_transformers_is_refused(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with refusal("none"):
        importlib.reload(integration)


@pytest.mark.parametrize("version", ["5.19.0.dev0", "5.19.0", "6.0.0rc1"])
def test_a_newer_transformers_is_accepted(monkeypatch, version):
    monkeypatch.setattr("transformers.__version__", version)
    importlib.reload(integration)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"labels": torch.zeros(2, 50)}, r"labels to have the shape of input_ids, \[2, 20\], got shape \[2, 50\]"),
        ({"token_type_ids": [0]}, r"token_type_ids to have the shape of input_ids, \[2, 20\], got list"),
        ({"position_ids": torch.arange(9)[None]}, r"position_ids to have the shape of input_ids, \[2, 20\], got shape"),
        (
            {"position_ids": torch.arange(10).repeat(2, 2), "attention_mask": None},
            "one sequence in each row of input_ids, got position_ids that start again within one",
        ),
    ],
)
def test_inputs_that_do_not_go_with_the_prompt(given, message):
    inputs = batch("llava", "ttItt", "ttItt")
    assert inputs["input_ids"].shape == (2, 20)
    with pytest.raises(ValueError, match=f"^prune_inputs: expected {message}"):
        prune_inputs(model_of("llava"), inputs | given, k=3)


def test_what_is_wrong_whatever_the_inputs_is_said_at_once():
    for options, message in (
        ({"method": "typo"}, "method to be one of divprune, mmr, idpruner, dpp, got 'typo'"),
        ({"method": "idpruner"}, "importance to be a tensor with method 'idpruner', got None"),
        ({"lam": 0.5}, "lam to be None with method 'divprune', got 0.5"),
    ):
        with pytest.raises(ValueError, match=message):
            enable_pruning(model_of("llava"), k=4, **options)


@pytest.mark.parametrize("family", ["llava", "qwen3_vl"])
def test_a_prompt_that_ends_in_an_image_has_no_position_for_an_answer(family):
    """`generate` would count on from the last token that stays, `next_step` from the last one that there was."""
    model, inputs = model_of(family), batch(family, "ttIt")
    last = int((inputs["input_ids"] == IMAGE).nonzero()[-1, 1]) + 1
    inputs = {name: value if "pixel" in name or "image" in name else value[:, :last] for name, value in inputs.items()}
    message = r"^prune_inputs: expected text after the last image or video of a prompt with positions 'original', got"
    with pytest.raises(ValueError, match=message):
        prune_inputs(model, inputs, keep_ratio=0.3, positions="original")
    assert prune_inputs(model, inputs, keep_ratio=1, positions="original").input_ids.shape[1] == last
