"""LLaVA-1.5, the models that vLLM loads by the same class, such as Pixtral, and LLaVA-OneVision."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor
from vllm.model_executor.models.llava import LlavaForConditionalGeneration
from vllm.model_executor.models.llava_onevision import LlavaOnevisionForConditionalGeneration

from .class_attention import LlavaClassAttention
from .model import PruningModel
from .processor import pruned


@pruned()
class PrunedLlava(LlavaClassAttention, LlavaForConditionalGeneration):
    """LLaVA-1.5."""

    leans_on = ("vision_tower",)

    def _attention_of_items(self, attention: Tensor, kwargs: Mapping[str, Any]) -> Sequence[Tensor]:
        return list(self._patches(attention))


@pruned()
class PrunedLlavaOnevision(PruningModel, LlavaOnevisionForConditionalGeneration):
    """LLaVA-OneVision, whose tower has no class token."""
