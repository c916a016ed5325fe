"""The kept features as encoder outputs, which a model takes in place of images and videos."""

from __future__ import annotations

from collections import UserDict
from typing import Any

import torch
from torch import Tensor

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
        self._tokens = features.tokens[kept].split(beam_groups)
        self._deepstack = [layer[kept].split(beam_groups) for layer in features.deepstack]
        self._output_type = features.output_type
        self._packed = features.packed

    def encoder_output(self) -> Any:
        """Returns a new output of the class that the model's own encoder returns."""
        output = self._output_type()
        output["pooler_output"] = torch.cat(self._tokens).unsqueeze(1) if self._packed else list(self._tokens)
        if self._deepstack:
            output["deepstack_features"] = [list(layer) for layer in self._deepstack]
        return output


class PrunedInputs(UserDict[str, Any]):
    """The inputs of a model after pruning; what ``prune_inputs`` returns.

    A mapping from argument names to values, for ``model(**pruned)`` and ``model.generate(**pruned)``. The images and
    videos are in ``pruned["mm_encoder_outputs"]``, a dict with the encoder output of each modality, in place of
    ``pixel_values`` and ``pixel_values_videos``. ``generate`` changes encoder outputs in place, so each access builds
    new ones: the same pruned inputs are good for any number of calls. ``dict(pruned)`` builds them once, and is good
    for one call of ``generate``.

    Example:
        >>> pruned = PrunedInputs({"input_ids": torch.tensor([[1, 2, 3]])})
        >>> list(pruned), pruned["input_ids"].shape
        (['input_ids'], torch.Size([1, 3]))
    """

    def __getitem__(self, name: str) -> Any:
        value = super().__getitem__(name)
        if isinstance(value, dict):
            return {
                key: each.encoder_output() if isinstance(each, KeptFeatures) else each for key, each in value.items()
            }
        return value
