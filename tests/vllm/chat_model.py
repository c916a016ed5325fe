"""InternVL as OpenGVLab published it: the checkpoint of the `internvl` family under other names, and its inputs."""

import json

import torch
from safetensors.torch import save_file

IMAGE_SIZE, TILES, TOKENS = 112, 4, 16

CONFIGURATION = """
from transformers import CONFIG_MAPPING, PreTrainedConfig


class VisionConfig(PreTrainedConfig):
    model_type = "intern_vit_6b"


class ChatConfig(PreTrainedConfig):
    model_type = "internvl_chat"

    def __init__(self, vision_config=None, llm_config=None, **kwargs):
        super().__init__(**kwargs)
        self.vision_config = VisionConfig(**(vision_config or {}))
        llm_config = llm_config or {"model_type": "qwen2"}
        self.text_config = CONFIG_MAPPING[llm_config["model_type"]](**llm_config)
        self.llm_config = self.text_config
"""

TOWER = {
    "embeddings.cls_token": "embeddings.class_embedding",
    "embeddings.position_embeddings": "embeddings.position_embedding",
    "embeddings.patch_embeddings.projection": "embeddings.patch_embedding",
    "encoder.layer.": "encoder.layers.",
    "attention.projection_layer": "attn.proj",
    "layernorm_before": "norm1",
    "layernorm_after": "norm2",
    "lambda_1": "ls1",
    "lambda_2": "ls2",
}
PROJECTOR = {"layer_norm": "0", "linear_1": "1", "linear_2": "3"}


def save(model, tokenizer, path):
    """Saves a model of transformers as a checkpoint of vLLM's `InternVLChatModel`."""
    weights = {}
    state = model.state_dict()
    for name, value in state.items():
        if name.startswith("model.vision_tower."):
            name = name.removeprefix("model.vision_tower.")
            for theirs, published in TOWER.items():
                name = name.replace(theirs, published)
            if ".attention.q_proj." in name:
                parts = [state_of(state, name, part) for part in "qkv"]
                name, value = name.replace("attention.q_proj", "attn.qkv"), torch.cat(parts)
            elif ".attention." in name:
                continue
            weights[f"vision_model.{name}"] = value
        elif name.startswith("model.multi_modal_projector."):
            layer, _, kind = name.removeprefix("model.multi_modal_projector.").partition(".")
            weights[f"mlp1.{PROJECTOR[layer]}.{kind}"] = value
        elif name.startswith("model.language_model."):
            weights[name.replace("model.language_model.", "language_model.model.")] = value
        else:
            weights[f"language_model.{name}"] = value
    path.mkdir()
    save_file({name: value.clone().contiguous() for name, value in weights.items()}, path / "model.safetensors")
    tokenizer.save_pretrained(path)
    (path / "configuration_chat.py").write_text(CONFIGURATION)
    (path / "config.json").write_text(json.dumps(config(model.config)))


def state_of(state, name, part):
    name = name.replace("encoder.layers.", "encoder.layer.").replace("q_proj", f"{part}_proj")
    return state[f"model.vision_tower.{name}"]


def config(of):
    vision = of.vision_config
    copied = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "hidden_act")
    return {
        "model_type": "internvl_chat",
        "architectures": ["InternVLChatModel"],
        "auto_map": {"AutoConfig": "configuration_chat.ChatConfig"},
        "vision_config": {name: getattr(vision, name) for name in (*copied, "layer_norm_eps", "norm_type")}
        | {"image_size": IMAGE_SIZE, "patch_size": 14, "qkv_bias": vision.attention_bias}
        | {"qk_normalization": vision.use_qk_norm, "initializer_factor": 1.0, "num_channels": 3},
        "llm_config": of.text_config.to_dict() | {"architectures": ["Qwen2ForCausalLM"]},
        "select_layer": -1,
        "downsample_ratio": of.downsample_ratio,
        "ps_version": "v2",
        "force_image_size": IMAGE_SIZE,
        "min_dynamic_patch": 1,
        "max_dynamic_patch": TILES,
        "dynamic_image_size": True,
        "use_thumbnail": True,
    }


def inputs(tokenizer, text, images, videos):
    """What transformers' model takes for a prompt, with the pixels of vLLM's own processor."""
    from vllm.transformers_utils.processors import internvl

    # The first name is that of vLLM 0.33.
    image_processor = getattr(internvl, "InternVLChatImageProcessor", None) or internvl.InternVLImageProcessor
    video_processor = getattr(internvl, "InternVLChatVideoProcessor", None) or internvl.InternVLVideoProcessor
    ids = tokenizer(text)["input_ids"]
    start, end, token = tokenizer.convert_tokens_to_ids(["<img>", "</img>", "<IMG_CONTEXT>"])
    pixels, placeholders = [], {"<image>": [], "<video>": []}
    for image in images:
        made = image_processor(IMAGE_SIZE, 1, TILES, True, True)(image)
        tiles = made["pixel_values_flat"]
        placeholders["<image>"].append((tiles, [start, *[token] * (TOKENS * len(tiles)), end]))
    for video in videos:
        frames = video_processor(IMAGE_SIZE)(video)["pixel_values_flat_video"]
        tokens = []
        for number in range(len(frames)):
            lead = tokenizer.encode(f"Frame{number + 1}: ", add_special_tokens=False)
            tokens += [*lead, start, *[token] * TOKENS, end]
        placeholders["<video>"].append((frames, tokens))
    expanded = []
    for each in ids:
        name = tokenizer.convert_ids_to_tokens(each)
        if name not in placeholders:
            expanded.append(each)
            continue
        tiles, tokens = placeholders[name].pop(0)
        pixels.append(tiles)
        expanded += tokens
    result = {"input_ids": torch.tensor([expanded]), "attention_mask": torch.ones(1, len(expanded), dtype=torch.int64)}
    return result | ({"pixel_values": torch.cat(pixels)} if pixels else {})
