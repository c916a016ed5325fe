"""The table of supported models."""

from __future__ import annotations

from typing import Any

from .family import Family
from .internvl import InternVL
from .llava import Llava, LlavaNext, LlavaNextVideo, LlavaOnevision
from .qwen_vl import QwenVL

FAMILIES: dict[str, Family] = {
    "LlavaForConditionalGeneration": Llava(),
    "LlavaNextForConditionalGeneration": LlavaNext(),
    "LlavaNextVideoForConditionalGeneration": LlavaNextVideo(),
    "LlavaOnevisionForConditionalGeneration": LlavaOnevision(),
    "Qwen2VLForConditionalGeneration": QwenVL(),
    "Qwen2_5_VLForConditionalGeneration": QwenVL(),
    "Qwen3VLForConditionalGeneration": QwenVL(),
    "InternVLForConditionalGeneration": InternVL(),
}


def family_of(model: Any) -> Family:
    """The family of a model, found by its class or the nearest of its base classes.

    Raises:
        TypeError: for a model of no supported family.
    """
    for base in type(model).__mro__:
        if base.__name__ in FAMILIES:
            return FAMILIES[base.__name__]
    raise TypeError(f"model: expected one of {', '.join(FAMILIES)}, got {type(model).__name__}")
