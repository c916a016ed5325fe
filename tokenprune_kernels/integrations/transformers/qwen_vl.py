"""Qwen2-VL, Qwen2.5-VL and Qwen3-VL, whose positions are (time, height, width)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from .family import Family
from .sequences import Shortening, next_positions, positions_of


class QwenVL(Family):
    """The Qwen-VL models: every kept token keeps its (t, h, w).

    Source: Wang et al., Qwen2-VL, arXiv 2409.12191, section 2.1 (multimodal rotary positions).
    """

    modalities = ("image", "video")
    positions = ("original",)
    position_rows = 4
    position_inputs = ("image_grid_thw", "video_grid_thw", "second_per_grid_ts")

    def grids(
        self, model: Any, inputs: Mapping[str, Any], modality: str, counts: list[int]
    ) -> list[tuple[int, ...] | None]:
        """The processor's grid, in merged patches."""
        merge = model.config.vision_config.spatial_merge_size
        return [
            (time, rows // merge, columns // merge)
            for time, rows, columns in inputs[f"{modality}_grid_thw"].reshape(-1, 3).tolist()
        ]

    def position_ids(
        self, model: Any, inputs: Mapping[str, Any], positions: str, shortening: Shortening, attention_mask: Tensor
    ) -> tuple[Tensor | None, Tensor]:
        """The original (t, h, w) of the tokens that stay, after a row of contiguous numbers: ``[4, B, L']``.

        The model makes its attention mask from the first row.
        """
        numbers = positions_of(attention_mask).unsqueeze(0)
        if "position_ids" in inputs:
            given = inputs["position_ids"]
            after = next_positions(given[1:] if given.shape[:-2] == (4,) else given, inputs["attention_mask"])
            position_ids = shortening(given, 0)
            if given.shape[:-2] == (4,):
                position_ids = torch.cat([numbers, position_ids[1:]])
            return position_ids, after
        input_ids = inputs["input_ids"]
        spatial, _ = model.model.get_rope_index(
            input_ids,
            mm_token_type_ids=inputs.get("mm_token_type_ids", _token_types(model.config, input_ids)),
            attention_mask=inputs["attention_mask"],
            **{name: inputs[name] for name in self.position_inputs if name in inputs},
        )
        after = next_positions(spatial, inputs["attention_mask"])
        return torch.cat([numbers, shortening(spatial, 0)]), after


def _token_types(config: Any, input_ids: Tensor) -> Tensor:
    """The processor's ``mm_token_type_ids``: 1 for image placeholders, 2 for those of videos, 0 for text."""
    return (input_ids == config.image_token_id).int() + 2 * (input_ids == config.video_token_id).int()
