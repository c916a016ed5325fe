"""InternVL, whose processor cuts an image into tiles that are encoded one by one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from .family import Family
from .sequences import run_lengths


class InternVL(Family):
    """InternVL: an image of one or several tiles is a run of placeholders; a video is a run for every frame."""

    packed = ("image",)

    def tokens(self, pooler_output: Any, placeholders: Tensor) -> tuple[Tensor, list[int]]:
        """The tokens of all tiles, and the lengths of the runs of placeholders."""
        return pooler_output.flatten(0, 1), run_lengths(placeholders)

    def grids(
        self, model: Any, inputs: Mapping[str, Any], modality: str, counts: list[int]
    ) -> list[tuple[int, ...] | None]:
        """The square of a single tile."""
        size, patch = (getattr(model.config.vision_config, f"{name}_size") for name in ("image", "patch"))
        side = int(size[0] // patch[0] * model.config.downsample_ratio)
        return [(1, side, side) if count == side**2 else None for count in counts]

    def class_attention_items(
        self, model: Any, inputs: Mapping[str, Any], modality: str, attention: Tensor
    ) -> list[Tensor]:
        """A token has the mean attention of the patches that pixel shuffle merged into it."""
        side = round(attention.shape[-1] ** 0.5)
        patches = attention.view(-1, side, side, 1)
        tokens = model.model.pixel_shuffle(patches, scale_factor=model.config.downsample_ratio).mean(-1)
        runs = run_lengths(inputs["input_ids"] == model.config.image_token_id)
        return list(tokens.flatten().split(runs))
