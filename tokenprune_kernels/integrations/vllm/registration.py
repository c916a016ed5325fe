"""The entry point: which classes take the place of vLLM's own, and vLLM's own where they cannot."""

from __future__ import annotations

import importlib
import logging
from functools import cache
from typing import Any

from .engine import refusing
from .requirement import check_seams, unsupported_version

_PACKAGE = __name__.rpartition(".")[0]
# A logger below vLLM's own has its handlers.
logger = logging.getLogger(f"vllm.{__name__}")
# The module of this package and the class in it, by architecture.
ARCHITECTURES = {
    "LlavaForConditionalGeneration": "llava:PrunedLlava",
    "LlavaNextForConditionalGeneration": "llava_next:PrunedLlavaNext",
    "LlavaNextVideoForConditionalGeneration": "llava_next:PrunedLlavaNextVideo",
    "LlavaOnevisionForConditionalGeneration": "llava:PrunedLlavaOnevision",
    "InternVLChatModel": "internvl:PrunedInternVLChat",
    "InternVLForConditionalGeneration": "internvl:PrunedInternVL",
    "Qwen2VLForConditionalGeneration": "qwen_vl:PrunedQwen2VL",
    "Qwen2_5_VLForConditionalGeneration": "qwen_vl:PrunedQwen2_5_VL",
    "Qwen3VLForConditionalGeneration": "qwen3_vl:PrunedQwen3VL",
}
OWN: dict[str, Any] = {}  # what vLLM had registered for each architecture


def register() -> None:
    """Names a class to vLLM for each architecture, in every process of vLLM; imports no model.

    vLLM finds the class in this package, by the name of the architecture.
    """
    try:
        from vllm import ModelRegistry

        for architecture in ARCHITECTURES:
            if architecture in ModelRegistry.models:
                OWN.setdefault(architecture, ModelRegistry.models[architecture])
                ModelRegistry.register_model(architecture, f"{_PACKAGE}:{architecture}")
    except Exception as error:  # whatever it is, vLLM goes on without this package
        logger.warning("tokenprune: expected vllm's registry of models, got %r; no model is pruned", error)


@cache
def model_class(architecture: str) -> Any:
    """Returns this package's class of a model.

    Where the installed vLLM does not go with this package, a line in the log says why, and the class is vLLM's own: an
    engine without the option does not notice, and one with it raises the same line.
    """
    try:
        reason = unsupported_version()
        if reason is None:
            check_seams()
            module, _, name = ARCHITECTURES[architecture].partition(":")
            return getattr(importlib.import_module(f"{_PACKAGE}.{module}"), name)
    except Exception as error:  # a module that moved, a class that cannot be derived from any more
        message = str(error)
        reason = message if message.startswith("tokenprune: ") else f"tokenprune: expected another vllm, got {error!r}"
    logger.warning("%s; %s is not pruned", reason, architecture)
    return refusing(OWN[architecture].load_model_cls(), reason)
