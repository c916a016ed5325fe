"""The learned importance scorer of VisionSelector, and its trained weights."""

import json
import re

import pytest
import torch

from tokenprune_kernels.importance import VisionSelectorScorer

safetensors = pytest.importorskip("safetensors.torch")


@torch.no_grad()
def test_the_scorer_is_the_mean_product_of_queries_and_keys():
    torch.manual_seed(0)
    scorer, x = VisionSelectorScorer(24, 10), torch.randn(3, 50, 24)
    products = scorer.q_proj(x) @ scorer.k_proj(x).mT / 10**0.5
    torch.testing.assert_close(scorer(x), products.mean(-1))
    torch.testing.assert_close(scorer(x[1]), products.mean(-1)[1])
    half = scorer(x.bfloat16())
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, products.mean(-1), atol=2e-2, rtol=0)


def scorer_tensors(prefix=""):
    torch.manual_seed(1)
    return {prefix + name: tensor.clone() for name, tensor in VisionSelectorScorer(24, 10).state_dict().items()}


@pytest.mark.parametrize("kind", ["file", "directory", "whole model", "shards"])
def test_trained_weights_are_loaded(tmp_path, kind):
    prefix = "visual.importance_scorer." if kind in ("whole model", "shards") else ""
    tensors, source = scorer_tensors(prefix), tmp_path
    others = {"model.layers.0.self_attn.q_proj.weight": torch.zeros(2, 2)} if prefix else {}
    if kind == "shards":
        shards = {"model-1.safetensors": dict(list(tensors.items())[:1]), "model-2.safetensors": others}
        shards["model-3.safetensors"] = dict(list(tensors.items())[1:])
        for file, part in shards.items():
            safetensors.save_file(part, tmp_path / file)
        weight_map = {name: file for file, part in shards.items() for name in part}
        (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    else:
        safetensors.save_file(tensors | others, tmp_path / "model.safetensors")
        source = tmp_path / "model.safetensors" if kind == "file" else tmp_path
    scorer = VisionSelectorScorer.from_pretrained(source, prefix=prefix)
    for name, tensor in scorer.state_dict().items():
        assert torch.equal(tensor, tensors[prefix + name])


def test_trained_weights_are_float32_whatever_the_default(tmp_path):
    safetensors.save_file(scorer_tensors(""), tmp_path / "model.safetensors")
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device("meta"):
            scorer = VisionSelectorScorer.from_pretrained(tmp_path)
    finally:
        torch.set_default_dtype(torch.float32)
    for name, tensor in scorer.state_dict().items():
        assert torch.equal(tensor, scorer_tensors("")[name])


def test_trained_weights_come_from_the_hub(tmp_path, monkeypatch):
    huggingface_hub = pytest.importorskip("huggingface_hub")
    from huggingface_hub.errors import EntryNotFoundError

    safetensors.save_file(scorer_tensors(), tmp_path / "model.safetensors")
    asked = []

    def download(repository, name, revision):
        asked.append((repository, name, revision))
        if name != "model.safetensors":
            raise EntryNotFoundError("no such file")
        return str(tmp_path / name)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    scorer = VisionSelectorScorer.from_pretrained("someone/scorer", revision="v1")
    assert torch.equal(scorer.q_proj.weight, scorer_tensors()["q_proj.weight"])
    assert asked == [("someone/scorer", f"model.safetensors{ending}", "v1") for ending in (".index.json", "")]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"k_proj.bias": None}, "expected the tensors under prefix '' to be q_proj.weight, q_proj.bias"),
        ({"input_layernorm.weight": torch.ones(24)}, "got input_layernorm.weight, k_proj.bias"),
        ({"k_proj.weight": torch.ones(10, 23)}, "expected k_proj.weight to have shape [10, 24], got shape [10, 23]"),
        ({"k_proj.bias": torch.ones(9)}, "expected k_proj.bias to have shape [10], got shape [9]"),
    ],
)
def test_other_weights_are_refused(tmp_path, change, message):
    tensors = {name: tensor for name, tensor in (scorer_tensors() | change).items() if tensor is not None}
    safetensors.save_file(tensors, tmp_path / "scorer.safetensors")
    with pytest.raises(ValueError, match=re.escape(message)):
        VisionSelectorScorer.from_pretrained(tmp_path / "scorer.safetensors")


def test_pickled_weights_are_not_read(tmp_path):
    torch.save(scorer_tensors(), tmp_path / "pytorch_model.bin")
    with pytest.raises(ValueError, match="got none"):
        VisionSelectorScorer.from_pretrained(tmp_path)
