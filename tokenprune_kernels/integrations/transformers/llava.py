"""LLaVA-1.5, LLaVA-NeXT, LLaVA-NeXT-Video and LLaVA-OneVision."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from .family import Family


class Llava(Family):
    """LLaVA-1.5, and the models that transformers loads by the same class, such as Pixtral."""

    extra_inputs = ("image_sizes",)  # of Pixtral's vision tower

    def grids(
        self, model: Any, inputs: Mapping[str, Any], modality: str, counts: list[int]
    ) -> list[tuple[int, ...] | None]:
        """The patches of an image: a square, and of Pixtral as its size has it."""
        if "image_sizes" in inputs:
            patch = model.model.vision_tower.patch_size
            return [(1, int(height) // patch, int(width) // patch) for height, width in inputs["image_sizes"]]
        sides = [math.isqrt(count) for count in counts]
        return [(1, side, side) if side**2 == count else None for side, count in zip(sides, counts, strict=True)]


class LlavaNext(Family):
    """LLaVA-NeXT: an overview and tiles of each image, and a newline token after every row of the tiles."""

    newlines = True

    def class_attention_items(
        self, model: Any, inputs: Mapping[str, Any], modality: str, attention: Tensor
    ) -> list[Tensor]:
        """The model's own method joins the tiles, as it joins their tokens; a newline has attention 0."""
        from transformers.models.llava_next.modeling_llava_next import image_size_to_num_patches

        config = model.config
        sizes = inputs["image_sizes"]
        tiles = [
            image_size_to_num_patches(size, config.image_grid_pinpoints, config.vision_config.image_size)
            for size in sizes
        ]
        packed, _ = model.model.pack_image_features(
            attention.unsqueeze(-1).split(tiles),
            sizes,
            config.vision_feature_select_strategy,
            image_newline=attention.new_zeros(1),
        )
        return [item.squeeze(-1) for item in packed]


class LlavaNextVideo(LlavaNext):
    """LLaVA-NeXT-Video: LLaVA-NeXT's images, and videos whose frames are pooled."""

    modalities = ("image", "video")

    def class_attention_items(
        self, model: Any, inputs: Mapping[str, Any], modality: str, attention: Tensor
    ) -> list[Tensor]:
        """Images are as in LLaVA-NeXT; the model's own pooling reduces the frames of a video."""
        if modality == "image":
            return super().class_attention_items(model, inputs, modality, attention)
        pooled = model.model.vision_resampler(attention.unsqueeze(-1))
        return list(pooled.reshape(len(inputs["pixel_values_videos"]), -1))


class LlavaOnevision(Family):
    """LLaVA-OneVision: newline tokens as in LLaVA-NeXT, and one after each video."""

    modalities = ("image", "video")
    packed = ("video",)
    newlines = True
