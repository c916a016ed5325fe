"""What the pruning has to know about a family of models, and what most of them share."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from .class_attention import check_class_token, class_attention
from .sequences import Shortening, next_positions, positions_of

PIXELS = {"image": "pixel_values", "video": "pixel_values_videos"}


def has_pixels(inputs: Mapping[str, Any]) -> bool:
    """Whether there are images or videos to encode."""
    return any(inputs.get(name) is not None for name in PIXELS.values())


@dataclass(frozen=True)
class Features:
    """What a model's encoder made of the images, or of the videos, of a batch.

    Attributes:
        modality: ``"image"`` or ``"video"``.
        tokens: those of all images or videos, ``[sum of n_i, D]``.
        counts: how many each image or video has, n_i.
        deepstack: the features of all tokens for each of the language model's first layers, ``[sum of n_i, D]``.
        placeholders: bool ``[B, L]``, the places of the tokens in the prompts, in the same order.
        output_type: the class of the encoder's output.
        packed: whether the language model expects one tensor ``[K, 1, D]`` of tokens, not a list of ``[k_j, D]``.
        class_attention: the attention of the vision tower's class token to each token, ``[n_i]`` for each image or
            video; empty unless it was asked for.
        grids: (time, rows, columns) of the tokens of each image or video, None where they form no grid.
    """

    modality: str
    tokens: Tensor
    counts: list[int]
    deepstack: list[Tensor]
    placeholders: Tensor
    output_type: type
    packed: bool
    class_attention: list[Tensor] = field(default_factory=list)
    grids: list[tuple[int, ...] | None] = field(default_factory=list)


class Family:
    """A family of models that encode by ``get_image_features`` and ``get_video_features``, with 1-D positions."""

    modalities: tuple[str, ...] = ("image",)
    positions: tuple[str, ...] = ("contiguous", "original")  # the supported values, the default first
    packed: tuple[str, ...] = ()  # modalities whose features the model expects as one tensor, not as a list
    extra_inputs: tuple[str, ...] = ()  # inputs of the encoder that its signature does not name
    position_inputs: tuple[str, ...] = ()  # inputs that are used for positions only
    position_rows = 0  # of (text, time, height, width) positions; 0 where a token has a single position
    newlines = False  # whether the model inserts its parameter ``image_newline`` among the tokens

    def encode(
        self, model: Any, inputs: Mapping[str, Any], modality: str, *, with_class_attention: bool = False
    ) -> Features:
        """Runs the model's own encoder on all images or videos of a batch.

        Raises:
            ValueError: unless ``input_ids`` has a placeholder for every token.
        """
        if with_class_attention:
            check_class_token(model)
        encoder = getattr(model.model, f"get_{modality}_features")
        arguments = {name: inputs[name] for name in self.encoder_inputs(model, modality) if name in inputs}
        if with_class_attention:
            arguments["output_hidden_states"] = True
        output = encoder(inputs[PIXELS[modality]], **arguments, return_dict=True)
        placeholders = inputs["input_ids"] == getattr(model.config, f"{modality}_token_id")
        tokens, counts = self.tokens(output.pooler_output, placeholders)
        if int(placeholders.sum()) != len(tokens):
            raise ValueError(
                f"prune_inputs: expected input_ids to have {len(tokens)} {modality} placeholders, one for "
                f"each token that the model makes of {PIXELS[modality]}, got {int(placeholders.sum())}"
            )
        deepstack = [torch.cat(list(layer)) for layer in getattr(output, "deepstack_features", None) or []]
        attended = []
        if with_class_attention:
            attention = class_attention(model, inputs, output.hidden_states)
            attended = self.class_attention_items(model, inputs, modality, attention)
            if [len(item) for item in attended] != counts:
                raise ValueError(
                    f"prune_inputs: expected class attention to have {counts} values, one for each token of an image "
                    f"or video, got {[len(item) for item in attended]}"
                )
        grids = self.grids(model, inputs, modality, counts)
        packed = modality in self.packed
        return Features(modality, tokens, counts, deepstack, placeholders, type(output), packed, attended, grids)

    def encoder_inputs(self, model: Any, modality: str) -> list[str]:
        """The names of the encoder's inputs other than the pixel values."""
        _, *names = inspect.signature(getattr(model.model, f"get_{modality}_features")).parameters
        # The language model has an input of that name too.
        return [*(name for name in names if name != "output_hidden_states"), *self.extra_inputs]

    def tokens(self, pooler_output: Any, placeholders: Tensor) -> tuple[Tensor, list[int]]:
        """The encoder's tokens ``[sum of n_i, D]``, and how many each image or video has."""
        items = [item.flatten(0, -2) for item in pooler_output]
        return torch.cat(items), [len(item) for item in items]

    def grids(
        self, model: Any, inputs: Mapping[str, Any], modality: str, counts: list[int]
    ) -> list[tuple[int, ...] | None]:
        """(time, rows, columns) of the tokens of each image or video; None where they form no single grid."""
        return [None] * len(counts)

    def position_ids(
        self, model: Any, inputs: Mapping[str, Any], positions: str, shortening: Shortening, attention_mask: Tensor
    ) -> tuple[Tensor | None, Tensor]:
        """The positions of the tokens that stay, and of the first one after the prompt.

        Args:
            model: the model.
            inputs: its inputs before shortening; ``position_ids`` among them are shortened as they are.
            positions: one of the family's ``positions``.
            shortening: drops the tokens that do not stay from a tensor with one value per token.
            attention_mask: the shortened one, ``[B, L']``.

        Returns:
            int64 ``[..., B, L']``, or None where the model numbers the tokens itself; and int64 ``[B, 1]``.
        """
        if "position_ids" not in inputs and positions == "contiguous":
            return None, attention_mask.long().sum(-1, keepdim=True)
        position_ids = inputs.get("position_ids", positions_of(inputs["attention_mask"]))
        return shortening(position_ids, 0), next_positions(position_ids, inputs["attention_mask"])

    def class_attention_items(
        self, model: Any, inputs: Mapping[str, Any], modality: str, attention: Tensor
    ) -> list[Tensor]:
        """Brings the class token's attention to the patches, ``[tiles, patches]``, into the order of the tokens.

        Returns:
            ``[n_i]`` for each image or video.
        """
        return list(attention)


def placeholder_ids(model: Any, family: Family) -> tuple[int, ...]:
    """The tokens that stand for images and videos in a prompt."""
    return tuple(getattr(model.config, f"{modality}_token_id") for modality in family.modalities)
