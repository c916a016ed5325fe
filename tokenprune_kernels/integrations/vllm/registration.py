"""The entry point: which classes take the place of vLLM's own."""

from __future__ import annotations

from .requirement import unsupported_version

_PACKAGE = __name__.rpartition(".")[0]
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


def register() -> None:
    """Names this package's model classes to vLLM, in every process of vLLM; imports none of them.

    For a version of vLLM that is not supported, this warns and changes nothing: see ``requirement``.
    """
    from vllm import ModelRegistry
    from vllm.logger import init_logger

    reason = unsupported_version()
    if reason is not None:
        init_logger(f"vllm.{__name__}").warning(
            "%s; no model is pruned, and the option tokenprune has no effect", reason
        )
        return
    for architecture, name in ARCHITECTURES.items():
        ModelRegistry.register_model(architecture, f"{_PACKAGE}.{name}")
