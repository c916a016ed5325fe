"""Drafters of speculative decoding that get the rows of images."""

from __future__ import annotations

from typing import Any

from vllm import ModelRegistry
from vllm.model_executor.models.interfaces import supports_multimodal_embeddings

from .options import OPTION


def refuse_drafter(speculative: Any, model_class: Any) -> None:
    """Raises for a drafter that reads images where vLLM fails at the first one, pruned or not, and ends the engine.

    Args:
        speculative: vLLM's configuration of speculative decoding; None where there is none.
        model_class: this package's class of the model.

    Raises:
        ValueError: naming the drafter.
    """
    if speculative is None:
        return
    # A draft model has a place more for each request than the mask of the images.
    is_model = speculative.uses_draft_model()
    if not is_model and (model_class.drafters_read_images or not speculative.use_eagle()):
        return
    config = speculative.draft_model_config
    drafter, architecture = ModelRegistry.resolve_model_cls(config.architectures, config)
    if supports_multimodal_embeddings(drafter):
        raise ValueError(
            f"{OPTION}: expected a drafter of text alone for {model_class.__name__}, got {architecture}, which reads "
            "images"
        )
