"""LLaVA-NeXT and LLaVA-NeXT-Video."""

from __future__ import annotations

from vllm.model_executor.models.llava_next import LlavaNextForConditionalGeneration
from vllm.model_executor.models.llava_next_video import LlavaNextVideoForConditionalGeneration

from .model import PruningModel
from .processor import pruned


@pruned()
class PrunedLlavaNext(PruningModel, LlavaNextForConditionalGeneration):
    """LLaVA-NeXT."""


@pruned()
class PrunedLlavaNextVideo(PruningModel, LlavaNextVideoForConditionalGeneration):
    """LLaVA-NeXT-Video, which takes videos alone in vLLM."""
