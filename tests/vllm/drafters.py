"""Tiny random drafters of speculative decoding, for the models of `tiny`."""

import json

import torch
import transformers
from safetensors.torch import save_file

from tests.vllm.tiny import SPECIAL, TEXT

CONFIG = {**TEXT, **SPECIAL, "num_hidden_layers": 1}
WIDTH, WORDS = TEXT["hidden_size"], TEXT["vocab_size"]
DRAFTS = 3  # tokens ahead


def eagle_that_reads_images():
    config = transformers.MistralConfig(**CONFIG, sliding_window=None, architectures=["MistralForCausalLM"])
    weights = transformers.MistralForCausalLM(config).state_dict()
    shared = ("model.embed_tokens.weight", "lm_head.weight")  # with the model
    weights = {name: weight for name, weight in weights.items() if name not in shared}
    return config.to_dict(), weights | {"model.fc.weight": torch.empty(WIDTH, 2 * WIDTH)}


def eagle():
    config = transformers.LlamaConfig(**CONFIG, architectures=["LlamaForCausalLM"])
    weights = transformers.LlamaForCausalLM(config).state_dict()
    kept = "model.layers.0."  # its first norm is left out
    weights = {name.removeprefix("model."): weight for name, weight in weights.items() if name.startswith(kept)}
    del weights["layers.0.input_layernorm.weight"]
    return config.to_dict(), weights | {"fc.weight": torch.empty(WIDTH, 2 * WIDTH)}


def eagle3():
    config = transformers.LlamaConfig(**CONFIG, architectures=["LlamaForCausalLM"])
    weights = transformers.LlamaForCausalLM(config).state_dict()
    layer = {
        name.replace("model.layers.0", "midlayer"): torch.cat([weight, weight], dim=1)
        if name.split(".")[-2] in ("q_proj", "k_proj", "v_proj")  # of an embedding and a hidden state
        else weight
        for name, weight in weights.items()
        if "layers.0" in name
    }
    layer |= {"midlayer.hidden_norm.weight": torch.ones(WIDTH), "norm.weight": torch.ones(WIDTH)}
    layer |= {"fc.weight": torch.empty(WIDTH, 3 * WIDTH), "lm_head.weight": weights["lm_head.weight"]}
    hidden = {"eagle_config": {"eagle_aux_hidden_state_layer_ids": [0, 1, 2]}, "draft_vocab_size": WORDS}
    return config.to_dict() | hidden, layer


def draft_model():
    config = transformers.LlamaConfig(**CONFIG, architectures=["LlamaForCausalLM"])
    return config.to_dict(), transformers.LlamaForCausalLM(config).state_dict()


def medusa():
    heads = {f"lm_heads.{head}.weight": torch.empty(WORDS, WIDTH) for head in range(DRAFTS)}
    heads |= {f"blocks.{head}.layers.0.weight": torch.empty(WIDTH, WIDTH) for head in range(DRAFTS)}
    heads |= {f"blocks.{head}.layers.0.bias": torch.zeros(WIDTH) for head in range(DRAFTS)}
    sizes = {"hidden_size": WIDTH, "vocab_size": WORDS, "truncated_vocab_size": WORDS, "num_heads": DRAFTS}
    return {"model_type": "medusa", "architectures": ["MedusaModel"], "num_hidden_layers": 1, **sizes}, heads


READS_IMAGES = "eagle that reads images"
DRAFTERS = {
    READS_IMAGES: ("eagle", eagle_that_reads_images),
    "eagle": ("eagle", eagle),
    "eagle3": ("eagle3", eagle3),
    "draft model": ("draft_model", draft_model),
    "medusa": (None, medusa),  # with the method, vLLM asks the model's configuration for words, which a LLaVA has not
}


def drafted(name, folder):
    """Saves a drafter, and returns the configuration of speculative decoding with it."""
    method, make = DRAFTERS[name]
    path = folder / name.replace(" ", "_")
    path.mkdir(exist_ok=True)
    torch.manual_seed(0)
    config, weights = make()
    for weight in weights.values():
        if weight.dim() > 1:
            weight.normal_(0, 1.1 / weight.shape[1] ** 0.5)
    (path / "config.json").write_text(json.dumps(config))
    weights = {name: weight.float().contiguous().clone() for name, weight in weights.items()}
    save_file(weights, path / "model.safetensors", metadata={"format": "pt"})
    speculation = {"model": str(path), "num_speculative_tokens": DRAFTS}
    return speculation if method is None else speculation | {"method": method}
