"""The table of supported models."""

from __future__ import annotations

from typing import Any

from torch.nn import DataParallel, Module
from torch.nn.parallel import DistributedDataParallel

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


def unwrapped(model: Any) -> Any:
    """The model inside ``torch.compile``, PEFT, ``DataParallel`` and ``DistributedDataParallel``, or the model itself.

    The adapters of PEFT are part of the inner model's layers, so they act.

    Raises:
        TypeError: for a model of no supported family, naming where in it there is one.
    """
    inner = model
    while not _is_supported(inner):
        if hasattr(inner, "_orig_mod"):  # torch.compile's
            inner = inner._orig_mod
        elif isinstance(inner, DataParallel | DistributedDataParallel):
            inner = inner.module
        elif any(base.__module__.startswith("peft.") for base in type(inner).__mro__):
            inner = inner.get_base_model()
        else:
            raise TypeError(f"model: expected one of {', '.join(FAMILIES)}, got {type(model).__name__}{_hint(model)}")
    return inner


def family_of(model: Any) -> Family:
    """The family of a supported model, found by its class or the nearest of its base classes."""
    return next(FAMILIES[base.__name__] for base in type(model).__mro__ if base.__name__ in FAMILIES)


def _is_supported(model: Any) -> bool:
    return any(base.__name__ in FAMILIES for base in type(model).__mro__)


def _hint(model: Any) -> str:
    named = model.named_modules() if isinstance(model, Module) else ()
    return next((f" (pass its attribute {name!r})" for name, module in named if _is_supported(module)), "")
