"""What is needed of vLLM: a version that was looked at, and the attributes that are leaned on."""

from __future__ import annotations

import importlib
import inspect
import os
from typing import Any

OLDEST, NEWEST = (0, 31), (0, 33)
INSIST = "TOKENPRUNE_ANY_VLLM"

# What is imported, and what is overridden, called or read of it. A family adds ``leans_on`` of its model.
SEAMS = {
    "vllm.config:CompilationConfig": ("cudagraph_mm_encoder",),
    "vllm.config:LoRAConfig": ("enable_tower_connector_lora",),
    "vllm.config:ModelConfig": ("architectures", "get_inputs_embeds_size", "get_multimodal_config", "hf_config"),
    "vllm.config:MultiModalConfig": (
        "mm_encoder_tp_mode",
        "mm_hasher_algorithm",
        "mm_processor_kwargs",
        "video_pruning_rate",
    ),
    "vllm.config:SchedulerConfig": ("max_num_encoder_input_tokens",),
    "vllm.config:SpeculativeConfig": ("draft_model_config", "use_eagle", "uses_draft_model"),
    "vllm.config:VllmConfig": (
        "compilation_config",
        "lora_config",
        "model_config",
        "scheduler_config",
        "speculative_config",
    ),
    "vllm.distributed.parallel_state:GroupCoordinator": ("broadcast", "world_size"),
    "vllm.distributed:get_tensor_model_parallel_world_size": (),
    "vllm.distributed:get_tp_group": (),
    "vllm.distributed:tensor_model_parallel_all_reduce": (),
    "vllm.exceptions:VLLMValidationError": ("parameter",),
    "vllm.model_executor.layers.attention:MMEncoderAttention": ("num_heads", "scale"),
    "vllm.model_executor.models.interfaces:SupportsMRoPE": ("get_mrope_input_positions",),
    "vllm.model_executor.models.interfaces:SupportsMultiModal": (
        "_processor_factory",
        "embed_input_ids",
        "embed_multimodal",
        "get_language_model",
    ),
    "vllm.model_executor.models.interfaces:SupportsMultiModalPruning": (
        "recompute_mrope_positions",
        "supports_multimodal_pruning",
    ),
    "vllm.model_executor.models.interfaces:supports_multimodal_embeddings": (),
    "vllm.multimodal.hasher:MultiModalHasher": ("hash_kwargs",),
    "vllm.multimodal.inputs:MultiModalFeatureSpec": ("data", "identifier", "mm_position", "modality"),
    "vllm.multimodal.inputs:MultiModalFieldConfig": ("batched", "field"),
    "vllm.multimodal.inputs:MultiModalFieldElem": ("data", "field"),
    "vllm.multimodal.inputs:MultiModalKwargsItem": (),
    "vllm.multimodal.inputs:PlaceholderRange": ("length", "offset"),
    "vllm.multimodal.parse:DictEmbeddingItems": (),
    "vllm.multimodal.parse:EmbeddingItems": (),
    "vllm.multimodal.processing.context:BaseProcessingInfo": ("ctx", "get_hf_config"),
    "vllm.multimodal.processing.context:InputProcessingContext": ("get_mm_config", "model_config"),
    "vllm.multimodal.processing.inputs:ProcessorInputs": ("hf_processor_mm_kwargs", "prompt"),
    "vllm.multimodal.processing.processor:BaseMultiModalProcessor": (
        "_apply_hf_processor_main",
        "_get_mm_fields_config",
        "_get_mm_prompt_updates",
        "apply",
        "get_dummy_inputs",
        "info",
    ),
    "vllm.multimodal.processing.processor:ResolvedPromptUpdate": ("content", "modality"),
    "vllm.multimodal.processing:PromptUpdateDetails": ("full", "is_embed"),
    "vllm.multimodal.registry:_ProcessorFactories": ("dummy_inputs", "info", "processor"),
    "vllm.multimodal:MULTIMODAL_REGISTRY": ("register_processor",),
    "vllm.platforms:current_platform": ("is_cpu",),
    "vllm:ModelRegistry": ("resolve_model_cls",),
}


def unsupported_version() -> str | None:
    """Returns why the installed vLLM is not supported; None where it is, or where the user insists.

    ``TOKENPRUNE_ANY_VLLM=1`` in the environment insists on any version.
    """
    from packaging.version import Version
    from vllm import __version__ as version

    if OLDEST <= Version(version).release[:2] <= NEWEST or os.environ.get(INSIST) == "1":
        return None
    supported = " to ".join(".".join(map(str, release)) for release in (OLDEST, NEWEST))
    return f"tokenprune: expected vllm {supported} ({INSIST}=1 insists on another), got {version}"


def check_seams() -> None:
    """Raises for a vLLM that lacks something that is leaned on, so that it says so rather than misbehaves.

    Raises:
        ImportError: names everything that is missing.
    """
    missing = []
    for owner, names in SEAMS.items():
        module, _, attribute = owner.partition(":")
        try:
            found = getattr(importlib.import_module(module), attribute)
        except (ImportError, AttributeError):
            missing.append(owner)
            continue
        missing += [f"{owner}.{name}" for name in names if not _has(found, name)]
    refuse(missing)


def refuse(missing: list[str]) -> None:
    """Raises where something is missing of the installed vLLM.

    Raises:
        ImportError: naming all of it.
    """
    if missing:
        from vllm import __version__ as version

        raise ImportError(f"tokenprune: expected a vllm with {', '.join(missing)}, got vllm {version} without")


def _has(found: Any, name: str) -> bool:
    """Whether instances of a class have an attribute: the class has it, declares it, or makes it of an argument."""
    if hasattr(found, name) or not isinstance(found, type):
        return hasattr(found, name)
    declared = any(name in vars(base).get("__annotations__", {}) for base in found.__mro__)
    return declared or name in inspect.signature(found).parameters
