"""Qwen2-VL, Qwen2.5-VL and Qwen3-VL, whose positions are (time, height, width)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from .family import Family
from .sequences import Shortening, positions_of


class QwenVL(Family):
    """The Qwen-VL models: every kept token keeps its (t, h, w).

    Source: Wang et al., Qwen2-VL, arXiv 2409.12191, section 2.1 (multimodal rotary positions).
    """

    modalities = ("image", "video")
    positions = ("original",)
    state = ("rope_deltas",)
    position_inputs = ("image_grid_thw", "video_grid_thw", "second_per_grid_ts")

    def position_ids(
        self, model: Any, inputs: Mapping[str, Any], positions: str, shortening: Shortening, attention_mask: Tensor
    ) -> Tensor | None:
        """The original (t, h, w) of the tokens that stay, after a row of contiguous numbers: ``[4, B, L']``.

        The model makes its attention mask from the first row. As the model does, this sets ``rope_deltas`` on the inner
        model, from which later calls with a cache and without ``position_ids`` compute their positions.
        """
        if "position_ids" in inputs:
            position_ids = shortening(inputs["position_ids"], 0)
            if position_ids.shape[:-2] == (4,):
                position_ids[0] = positions_of(attention_mask)
            return position_ids
        inner, input_ids = model.model, inputs["input_ids"]
        spatial, rope_deltas = inner.get_rope_index(
            input_ids,
            mm_token_type_ids=inputs.get("mm_token_type_ids", _token_types(model.config, input_ids)),
            attention_mask=inputs["attention_mask"],
            **{name: inputs[name] for name in self.position_inputs if name in inputs},
        )
        before, after = ((mask != 0).sum(-1, keepdim=True) for mask in (inputs["attention_mask"], attention_mask))
        inner.rope_deltas = rope_deltas + before - after
        return torch.cat([positions_of(attention_mask).unsqueeze(0), shortening(spatial, 0)])


def _token_types(config: Any, input_ids: Tensor) -> Tensor:
    """The processor's ``mm_token_type_ids``: 1 for image placeholders, 2 for those of videos, 0 for text."""
    return (input_ids == config.image_token_id).int() + 2 * (input_ids == config.video_token_id).int()
