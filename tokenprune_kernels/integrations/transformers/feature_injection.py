"""The kept features as encoder outputs, which a model takes in place of images and videos."""

from __future__ import annotations

import copy
import dataclasses
import importlib
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .conversation import Conversation
from .family import Features


class KeptFeatures:
    """The features of the kept tokens of the images, or of the videos, of a batch.

    Features are in one group per prompt. Beam search repeats encoder outputs prompt by prompt, and it tells where a
    prompt's features end from the lengths of these groups and the number of placeholders in the prompt.
    """

    def __init__(self, features: Features, kept: Tensor, placeholders: Tensor) -> None:
        """Drops the features of the other tokens.

        Args:
            features: what the encoder made.
            kept: bool ``[sum of n_i]``, which tokens stay.
            placeholders: bool ``[B, L']``, their places in the shortened prompts.
        """
        beam_groups = placeholders.sum(-1).tolist()
        self._tokens = list(features.tokens[kept].split(beam_groups))
        self._deepstack = [list(layer[kept].split(beam_groups)) for layer in features.deepstack]
        # By name, so that torch.load takes saved features with weights_only.
        self._output_type = (features.output_type.__module__, features.output_type.__qualname__)
        self._packed = features.packed

    def encoder_output(self) -> Any:
        """Returns a new output of the class that the model's own encoder returns."""
        module, name = self._output_type
        if not module.startswith("transformers."):
            raise ValueError(f"PrunedInputs: expected encoder outputs of transformers, got {module}.{name}")
        output = getattr(importlib.import_module(module), name)()
        output["pooler_output"] = torch.cat(self._tokens).unsqueeze(1) if self._packed else list(self._tokens)
        if self._deepstack:
            output["deepstack_features"] = [list(layer) for layer in self._deepstack]
        return output


class EncoderOutputs(dict[str, Any]):
    """The encoder output of each modality, with ``to`` as tensors have it; and what the prompt was before pruning."""

    conversation: Conversation | None = None

    def to(self, *args: Any, **kwargs: Any) -> EncoderOutputs:
        """Moves the features, as ``PrunedInputs.to`` does."""
        for output in self.values():
            for name, value in list(output.items()):
                output[name] = moved(value, args, kwargs)
        return self


def moved(value: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """A value whose tensors are moved to a device, and to a dtype where they are floating."""
    dtypes = [each for each in (*args, kwargs.get("dtype")) if isinstance(each, torch.dtype)]

    def move(tensor: Tensor) -> Tensor:
        if dtypes and not tensor.is_floating_point():
            others = [each for each in args if not isinstance(each, torch.dtype)]
            named = {name: each for name, each in kwargs.items() if name != "dtype"}
            return tensor.to(*others, **named) if others or named else tensor
        return tensor.to(*args, **kwargs)

    return mapped(value, move)


def mapped(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """A value with every tensor in it changed."""
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, KeptFeatures):
        features = copy.copy(value)
        features._tokens = mapped(value._tokens, change)
        features._deepstack = mapped(value._deepstack, change)
        return features
    if isinstance(value, Conversation):
        tensors: dict[str, Any] = {name: change(each) for name, each in vars(value).items() if isinstance(each, Tensor)}
        return dataclasses.replace(value, **tensors)
    if isinstance(value, list | tuple):
        return type(value)(mapped(each, change) for each in value)
    if type(value) is dict:
        return {name: mapped(each, change) for name, each in value.items()}
    return value


torch.serialization.add_safe_globals([KeptFeatures, Conversation])
