"""Vision-language models in their published sizes, with random weights, and one prompt for each.

Time and memory do not depend on what the weights are. Nothing is downloaded: configurations are written out, prompts
are random text around a smooth random picture, in which neighbouring patches resemble each other as in photographs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
import transformers
from torch import Tensor, nn

TEXT_BEFORE, TEXT_AFTER = 35, 29
TEXT_TOKENS = TEXT_BEFORE + TEXT_AFTER
SIDE = 336  # of the pictures that CLIP's tower takes

CLIP = {
    "model_type": "clip_vision_model",
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_attention_heads": 16,
    "image_size": SIDE,
    "patch_size": 14,
    "projection_dim": 768,
}
VICUNA = {
    "model_type": "llama",
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "vocab_size": 32064,
    "max_position_embeddings": 4096,
    "rms_norm_eps": 1e-5,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 32001,
}
QWEN_TEXT = {
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "vocab_size": 152064,
    "max_position_embeddings": 128000,
    "rms_norm_eps": 1e-6,
    "rope_parameters": {"rope_type": "default", "mrope_section": [16, 24, 24], "rope_theta": 1e6},
    "bos_token_id": 151643,
    "eos_token_id": 151645,
    "pad_token_id": 151643,
}
QWEN_VISION = {
    "hidden_size": 1280,
    "intermediate_size": 3420,
    "num_heads": 16,
    "out_hidden_size": 3584,
    "patch_size": 14,
    "spatial_merge_size": 2,
    "temporal_patch_size": 2,
    "tokens_per_second": 2,
    "window_size": 112,
}
QWEN_TOKENS = {
    "image_token_id": 151655,
    "video_token_id": 151656,
    "vision_start_token_id": 151652,
    "vision_end_token_id": 151653,
}
# Every eighth block of Qwen2.5-VL's tower attends to the whole picture, the others to windows of it.
QWEN_WINDOWED_RUN = 8
QWEN_GRID = 72

Config = transformers.PretrainedConfig


@dataclass(frozen=True)
class FullSize:
    """A model and its prompt.

    Attributes:
        name: the model's.
        visual: its prompt's image or video, in words.
        modality: ``"image"`` or ``"video"``.
        visual_tokens: how many tokens the model makes of it.
        divprune_ratio: the share of them that DivPrune's paper keeps.
        layers: the depth of the language model.
        vision_layers: the depth of the vision tower.
        config: the configuration at given depths of the two.
        pixels: the model inputs that hold the image or video, float32.
        vision_kinds: what tells the layers of the tower apart, at a given depth.
    """

    name: str
    visual: str
    modality: str
    visual_tokens: int
    divprune_ratio: float
    layers: int
    vision_layers: int
    config: Callable[[int, int], Config]
    pixels: Callable[[], dict[str, Tensor]]
    vision_kinds: Callable[[int], Sequence[str]] = lambda depth: ["layer"] * depth


def build(model: FullSize, layers: int, vision_layers: int, device: str) -> Any:
    """The model in bfloat16 at these depths; only what it keeps is ever allocated."""
    with torch.device("meta"):
        made = transformers.AutoModelForImageTextToText.from_config(
            model.config(layers, vision_layers), dtype=torch.bfloat16
        )
    made.to_empty(device=device)
    torch.manual_seed(0)
    made.init_weights()
    return made.eval()


def prompt(model: FullSize, config: Config, device: str) -> dict[str, Tensor]:
    """The inputs that a processor would make: text, placeholders of the image or video, text."""
    generator = torch.Generator().manual_seed(0)
    before, after = (torch.randint(3, 1_000, (count,), generator=generator) for count in (TEXT_BEFORE, TEXT_AFTER))
    if hasattr(config, "vision_start_token_id"):
        before[-1], after[0] = config.vision_start_token_id, config.vision_end_token_id
    placeholders = torch.full((model.visual_tokens,), placeholder_id(model, config))
    input_ids = torch.cat([before, placeholders, after]).unsqueeze(0)
    inputs = {"input_ids": input_ids, "attention_mask": torch.ones_like(input_ids)} | model.pixels()
    if hasattr(config, "vision_start_token_id"):
        inputs["mm_token_type_ids"] = (input_ids == placeholder_id(model, config)).int()
    inputs = {name: value.to(device) for name, value in inputs.items()}
    return {name: value.bfloat16() if value.is_floating_point() else value for name, value in inputs.items()}


def placeholder_id(model: FullSize, config: Config) -> int:
    """The token that stands for one visual token."""
    return getattr(config, f"{model.modality}_token_id")


def stacks(model: Any) -> tuple[nn.ModuleList, nn.ModuleList]:
    """The layers of the language model and those of the vision tower."""
    inner = model.model
    tower = inner.visual if hasattr(inner, "visual") else inner.vision_tower
    layers = next(module for module in tower.modules() if isinstance(module, nn.ModuleList))
    return inner.language_model.layers, layers


def picture(frames: int, side: int) -> Tensor:
    """Seeded frames ``[frames, 3, side, side]`` of one scene."""
    generator = torch.Generator().manual_seed(0)
    size = (3, side // 28, side // 28)
    scene = torch.randn(1, *size, generator=generator) + 0.3 * torch.randn(frames, *size, generator=generator)
    grain = torch.randn(frames, 3, side, side, generator=generator)
    return F.interpolate(scene, (side, side), mode="bicubic") + 0.1 * grain


def one_image() -> dict[str, Tensor]:
    return {"pixel_values": picture(1, SIDE)}


def tiled_image() -> dict[str, Tensor]:
    """An overview of a picture and its four tiles."""
    whole = picture(1, 2 * SIDE)
    tiles = whole.reshape(3, 2, SIDE, 2, SIDE).permute(1, 3, 0, 2, 4).reshape(4, 3, SIDE, SIDE)
    overview = F.interpolate(whole, (SIDE, SIDE), mode="bicubic")
    return {
        "pixel_values": torch.cat([overview, tiles]).unsqueeze(0),
        "image_sizes": torch.tensor([[2 * SIDE, 2 * SIDE]]),
    }


def eight_frames() -> dict[str, Tensor]:
    return {"pixel_values_videos": picture(8, SIDE).unsqueeze(0)}


def patches() -> dict[str, Tensor]:
    """A picture as Qwen's processor cuts it: patches in groups of 2 x 2, each frame twice."""
    blocks = picture(1, 14 * QWEN_GRID).reshape(3, QWEN_GRID // 2, 2, 14, QWEN_GRID // 2, 2, 14)
    cut = blocks.permute(1, 4, 2, 5, 0, 3, 6).unsqueeze(5).expand(-1, -1, -1, -1, -1, 2, -1, -1)
    return {
        "pixel_values": cut.reshape(QWEN_GRID**2, -1),
        "image_grid_thw": torch.tensor([[1, QWEN_GRID, QWEN_GRID]]),
    }


def llava(config_class: type[Config], **tokens: int) -> Callable[[int, int], Config]:
    """Configurations of CLIP ViT-L/14 at 336 pixels with Vicuna 7B."""

    def config(layers: int, vision_layers: int) -> Config:
        return config_class(
            vision_config=CLIP | {"num_hidden_layers": vision_layers},
            text_config=VICUNA | {"num_hidden_layers": layers},
            **tokens,
        )

    return config


def whole_picture_blocks(depth: int) -> list[int]:
    """The blocks of Qwen2.5-VL's tower that attend to the whole picture; the last one where it has fewer than eight."""
    return list(range(QWEN_WINDOWED_RUN - 1, depth, QWEN_WINDOWED_RUN)) or [depth - 1]


def qwen2_5_vl(layers: int, vision_layers: int) -> Config:
    blocks = {"depth": vision_layers, "fullatt_block_indexes": whole_picture_blocks(vision_layers)}
    return transformers.Qwen2_5_VLConfig(
        text_config=QWEN_TEXT | {"num_hidden_layers": layers}, vision_config=QWEN_VISION | blocks, **QWEN_TOKENS
    )


def qwen_vision_kinds(depth: int) -> list[str]:
    whole = whole_picture_blocks(depth)
    return ["whole picture" if block in whole else "windows" for block in range(depth)]


MODELS = (
    FullSize(
        "LLaVA-1.5-7B",
        f"an image of {SIDE} x {SIDE}",
        "image",
        576,
        0.098,
        32,
        24,
        llava(transformers.LlavaConfig, image_token_index=32000),
        one_image,
    ),
    FullSize(
        "LLaVA-NeXT-7B",
        f"an image of {2 * SIDE} x {2 * SIDE}",
        "image",
        2_928,
        0.098,
        32,
        24,
        llava(transformers.LlavaNextConfig, image_token_index=32000),
        tiled_image,
    ),
    FullSize(
        "LLaVA-NeXT-Video-7B",
        "a video of 8 frames",
        "video",
        8 * 144,
        0.1,
        32,
        24,
        llava(transformers.LlavaNextVideoConfig, image_token_index=32001, video_token_index=32000),
        eight_frames,
    ),
    FullSize(
        "Qwen2.5-VL-7B",
        f"an image of {14 * QWEN_GRID:,} x {14 * QWEN_GRID:,}",
        "image",
        QWEN_GRID**2 // 4,
        0.098,
        28,
        32,
        qwen2_5_vl,
        patches,
        qwen_vision_kinds,
    ),
)
