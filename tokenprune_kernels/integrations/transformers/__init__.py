"""Pruning of visual tokens in the vision-language models of Hugging Face transformers, with no change to the models.

``prune_inputs`` prunes one call's inputs, ``enable_pruning`` every call of a model; ``VisionSelectorScorer`` is a
learned importance for both. Supported are LLaVA-1.5, LLaVA-NeXT, LLaVA-NeXT-Video, LLaVA-OneVision, Qwen2-VL,
Qwen2.5-VL, Qwen3-VL and InternVL. Needs the ``[transformers]`` extra.
"""

from .enabling import PruningHandle, enable_pruning
from .hand_over import PrunedInputs
from .pruning import prune_inputs
from .vision_selector import VisionSelectorScorer

__all__ = ["PrunedInputs", "PruningHandle", "VisionSelectorScorer", "enable_pruning", "prune_inputs"]
