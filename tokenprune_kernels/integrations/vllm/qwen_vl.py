"""Qwen2-VL and Qwen2.5-VL."""

from __future__ import annotations

from vllm.model_executor.models.qwen2_5_vl import Qwen2_5_VLForConditionalGeneration
from vllm.model_executor.models.qwen2_vl import Qwen2VLForConditionalGeneration

from .mrope import SpatialPositions, SpatialProcessor
from .processor import pruned


@pruned(SpatialProcessor)
class PrunedQwen2VL(SpatialPositions, Qwen2VLForConditionalGeneration):
    """Qwen2-VL."""


@pruned(SpatialProcessor)
class PrunedQwen2_5_VL(SpatialPositions, Qwen2_5_VLForConditionalGeneration):  # noqa: N801 - vLLM's own name
    """Qwen2.5-VL."""
