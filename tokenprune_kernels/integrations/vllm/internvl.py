"""InternVL, as transformers saves it and as OpenGVLab published it."""

from __future__ import annotations

from vllm.model_executor.models.interns1 import InternS1ForConditionalGeneration
from vllm.model_executor.models.internvl import InternVLChatModel

from .model import PruningModel
from .processor import PruningProcessor, pruned


class FrameProcessor(PruningProcessor):
    """Every frame of a video has a budget of its own, as in the transformers integration."""

    segment_is_run = True


@pruned(FrameProcessor)
class PrunedInternVL(PruningModel, InternS1ForConditionalGeneration):
    """``InternVLForConditionalGeneration``."""


@pruned(FrameProcessor)
class PrunedInternVLChat(PruningModel, InternVLChatModel):
    """``InternVLChatModel``."""
