"""InternVL, as transformers saves it and as OpenGVLab published it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from vllm.model_executor.models.interns1 import InternS1ForConditionalGeneration
from vllm.model_executor.models.internvl import InternVLChatModel

from .class_attention import ClassAttention
from .options import MODALITIES
from .processor import PruningProcessor, pruned


class FrameProcessor(PruningProcessor):
    """Every frame of a video has a budget of its own, as in the transformers integration."""

    segment_is_run = True


class TiledModel(ClassAttention):
    """An image or video is one or several tiles, and a class token is among the patches of each."""

    class_token_towers = ("internvl_vision", "intern_vit_6b")
    downsample_ratio: float
    pixel_shuffle: Any

    def _attention_of_items(self, attention: Tensor, kwargs: Mapping[str, Any]) -> Sequence[Tensor]:
        """A token has the mean attention of the patches that pixel shuffle merged into it."""
        side = round((attention.shape[1] - 1) ** 0.5)
        patches = attention[:, 1:].reshape(-1, side, side, 1)
        tokens = self.pixel_shuffle(patches, scale_factor=self.downsample_ratio).mean(-1).flatten(1)
        return [item.flatten() for item in tokens.split(_tiles(kwargs))]

    def _of_items(self, kwargs: Mapping[str, Any], first: int, last: int) -> dict[str, Any]:
        tiles = _tiles(kwargs)
        start, end = sum(tiles[:first]), sum(tiles[:last])
        return {
            name: value[start:end] if name.startswith("pixel_values") else value[first:last]
            for name, value in kwargs.items()
            if not name.endswith("_token_id")
        } | {name: value for name, value in kwargs.items() if name.endswith("_token_id")}


def _tiles(kwargs: Mapping[str, Any]) -> list[int]:
    names = (f"{modality}_num_patches" for modality in MODALITIES)
    return [int(count) for name in names if name in kwargs for count in torch.as_tensor(kwargs[name]).flatten()]


@pruned(FrameProcessor)
class PrunedInternVL(TiledModel, InternS1ForConditionalGeneration):
    """``InternVLForConditionalGeneration``."""

    tower = "vision_tower"
    leans_on = ("downsample_ratio", "pixel_shuffle", "vision_tower")


@pruned(FrameProcessor)
class PrunedInternVLChat(TiledModel, InternVLChatModel):
    """``InternVLChatModel``."""

    tower = "vision_model"
    leans_on = ("downsample_ratio", "pixel_shuffle", "vision_model")
