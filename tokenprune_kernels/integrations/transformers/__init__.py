"""Pruning of visual tokens in the vision-language models of Hugging Face transformers, without changing the models.

``prune_inputs`` prunes the inputs of one call. ``enable_pruning`` prunes every call of a model. Both support LLaVA-1.5,
LLaVA-NeXT, LLaVA-NeXT-Video, LLaVA-OneVision, Qwen2-VL, Qwen2.5-VL, Qwen3-VL and InternVL. ``VisionSelectorScorer`` is
a learned importance for either. The ``[transformers]`` extra installs what this needs, transformers 5.19 or later.
"""

from ...vision_selector import VisionSelectorScorer
from .enabling import PruningHandle, enable_pruning
from .pruned_inputs import PrunedInputs
from .pruning import prune_inputs
from .requirement import check_version

__all__ = ["PrunedInputs", "PruningHandle", "VisionSelectorScorer", "enable_pruning", "prune_inputs"]

check_version()
