"""LLaVA-NeXT and LLaVA-NeXT-Video."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from vllm.model_executor.models.llava_next import LlavaNextForConditionalGeneration
from vllm.model_executor.models.llava_next_video import LlavaNextVideoForConditionalGeneration

from .class_attention import LlavaClassAttention
from .processor import pruned


@pruned()
class PrunedLlavaNext(LlavaClassAttention, LlavaNextForConditionalGeneration):
    """LLaVA-NeXT: an overview and tiles of each image, and a newline token after every row of the tiles."""

    leans_on = ("_merge_image_patch_embeddings", "image_newline", "vision_tower")
    image_newline: Any

    def _attention_of_items(self, attention: Tensor, kwargs: Mapping[str, Any]) -> Sequence[Tensor]:
        """The model's own method joins the tiles, as it joins their tokens; a newline has attention 0."""
        tiles = self._patches(attention).unsqueeze(-1).split([len(each) for each in kwargs["pixel_values"]])
        newline = self.image_newline
        self.image_newline = torch.nn.Parameter(attention.new_zeros(1), requires_grad=False)
        try:
            return [
                self._merge_image_patch_embeddings(size, each, strategy="spatial_unpad").squeeze(-1)
                for size, each in zip(kwargs["image_sizes"], tiles, strict=True)
            ]
        finally:
            self.image_newline = newline


@pruned()
class PrunedLlavaNextVideo(LlavaClassAttention, LlavaNextVideoForConditionalGeneration):
    """LLaVA-NeXT-Video, which takes videos alone in vLLM."""

    leans_on = ("vision_resampler", "vision_tower")

    def _attention_of_items(self, attention: Tensor, kwargs: Mapping[str, Any]) -> Sequence[Tensor]:
        """The model's own pooling reduces the frames of a video."""
        pooled = self.vision_resampler(self._patches(attention).unsqueeze(-1)).squeeze(-1)
        return [each.flatten() for each in pooled.split([len(each) for each in kwargs["pixel_values_videos"]])]
