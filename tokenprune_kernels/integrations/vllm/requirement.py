"""What is needed of vLLM: a version that was looked at, and the attributes that are leaned on."""

from __future__ import annotations

import importlib
import os

OLDEST, NEWEST = (0, 31), (0, 33)
INSIST = "TOKENPRUNE_ANY_VLLM"

# What is overridden, called or read, beside what vLLM documents for plug-ins.
SEAMS = {
    "vllm.multimodal.processing.processor:BaseMultiModalProcessor": (
        "_apply_hf_processor_main",
        "_apply_prompt_updates",
        "_get_mm_fields_config",
        "_get_mm_hashes",
        "_get_mm_prompt_updates",
        "get_dummy_inputs",
    ),
    "vllm.multimodal.processing.processor:ResolvedPromptUpdate": ("content", "modality"),
    "vllm.multimodal.processing.processor:PromptUpdateDetails": ("full", "is_embed"),
    "vllm.multimodal.processing.inputs:ProcessorInputs": ("hf_processor_mm_kwargs",),
    "vllm.multimodal.inputs:MultiModalFieldElem": ("data", "field"),
    "vllm.multimodal.hasher:MultiModalHasher": ("hash_kwargs",),
    "vllm.config.multimodal:MultiModalConfig": ("mm_processor_kwargs", "video_pruning_rate", "mm_hasher_algorithm"),
    "vllm.model_executor.models.interfaces:SupportsMultiModalPruning": ("recompute_mrope_positions",),
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
        fields = getattr(found, "__dataclass_fields__", {})
        missing += [f"{owner}.{name}" for name in names if name not in fields and not hasattr(found, name)]
    if missing:
        from vllm import __version__ as version

        raise ImportError(f"tokenprune: expected a vllm with {', '.join(missing)}, got vllm {version} without")
