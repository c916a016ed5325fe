"""LLaVA-1.5, the models that vLLM loads by the same class, such as Pixtral, and LLaVA-OneVision."""

from __future__ import annotations

from vllm.model_executor.models.llava import LlavaForConditionalGeneration
from vllm.model_executor.models.llava_onevision import LlavaOnevisionForConditionalGeneration

from .model import PruningModel
from .processor import pruned


@pruned()
class PrunedLlava(PruningModel, LlavaForConditionalGeneration):
    """LLaVA-1.5."""


@pruned()
class PrunedLlavaOnevision(PruningModel, LlavaOnevisionForConditionalGeneration):
    """LLaVA-OneVision, whose tower has no class token."""
