"""LLaVA-1.5, LLaVA-NeXT, LLaVA-NeXT-Video and LLaVA-OneVision."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from .family import Family, Features


class Llava(Family):
    """LLaVA-1.5 and other models of its class."""

    extra_inputs = ("image_sizes",)  # of Pixtral's vision tower


class LlavaNext(Family):
    """LLaVA-NeXT: an overview and tiles of each image, with a newline after every row of them."""

    newlines = True

    def class_attention_items(
        self, model: Any, inputs: Mapping[str, Any], modality: str, attention: Tensor
    ) -> list[Tensor]:
        """Tiles are put together as the model does with their tokens; a newline has attention 0."""
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
        """Images as in LLaVA-NeXT; the frames of a video are pooled as the model does with their tokens."""
        if modality == "image":
            return super().class_attention_items(model, inputs, modality, attention)
        pooled = model.model.vision_resampler(attention.unsqueeze(-1))
        return list(pooled.reshape(len(inputs["pixel_values_videos"]), -1))


class LlavaOnevision(Family):
    """LLaVA-OneVision: newlines as in LLaVA-NeXT, and one after each video.

    Before transformers 5.19 it is the language model that puts them after the videos: they are no candidates then.
    """

    modalities = ("image", "video")
    packed = ("video",)
    newlines = True

    def features(self, model: Any, modality: str, output: Any, placeholders: Tensor) -> Features:
        """What an encoder's output holds, with the newlines that the language model would add."""
        features = super().features(model, modality, output, placeholders)
        missing = int(placeholders.sum()) - len(features.tokens)
        if modality == "image" or missing != len(features.counts):
            return features
        newline = model.model.image_newline.unsqueeze(0).to(features.tokens)
        return replace(
            features,
            tokens=torch.cat([each for item in features.tokens.split(features.counts) for each in (item, newline)]),
            counts=[count + 1 for count in features.counts],
            layout=replace(features.layout, adds_newline=True),
        )
