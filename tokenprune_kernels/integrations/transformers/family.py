"""What the pruning has to know about a family of models, and what holds for most of them."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from .sequences import Shortening, positions_of

PIXELS = {"image": "pixel_values", "video": "pixel_values_videos"}


@dataclass(frozen=True)
class Layout:
    """How the language model takes an encoder's output.

    Attributes:
        output_type: the class of the output.
        packed: the tokens are one tensor ``[K, 1, D]``, not a list of ``[k_j, D]``.
        joined: a deepstack layer is one tensor ``[K, D]``, not a list of ``[k_j, D]``.
        adds_newline: the language model puts a newline behind the tokens, which then are one tensor ``[1, K - 1, D]``.
    """

    output_type: type
    packed: bool
    joined: bool
    adds_newline: bool = False

    def output(self, tokens: list[Tensor], deepstack: list[list[Tensor]]) -> Any:
        """An encoder's output with the given tokens, ``[k_j, D]`` each, and features of the same for every layer."""
        pooler_output: Any = tokens
        if self.adds_newline:
            pooler_output = torch.cat(tokens)[:-1].unsqueeze(0)
        elif self.packed:
            pooler_output = torch.cat(tokens).unsqueeze(1)
        output = self.output_type()
        output["pooler_output"] = pooler_output
        if deepstack:
            output["deepstack_features"] = [torch.cat(layer) if self.joined else layer for layer in deepstack]
        return output


@dataclass(frozen=True)
class Features:
    """What a model's encoder made of the images, or of the videos, of a batch.

    Attributes:
        modality: ``"image"`` or ``"video"``.
        tokens: those of all images or videos, ``[sum of n_i, D]``.
        counts: how many each image or video has, n_i.
        deepstack: the features of all tokens for each of the language model's first layers, ``[sum of n_i, D]``.
        placeholders: bool ``[B, L]``, where the language model takes the tokens in, in their order.
        layout: how it takes them.
        class_attention: the vision tower's class token's attention to the tokens of each item, ``[n_i]``, if asked for.
    """

    modality: str
    tokens: Tensor
    counts: list[int]
    deepstack: list[Tensor]
    placeholders: Tensor
    layout: Layout
    class_attention: list[Tensor] = field(default_factory=list)


class Family:
    """A family of models that take their visual tokens in through ``get_*_features``, with 1-D positions."""

    modalities: tuple[str, ...] = ("image",)
    positions: tuple[str, ...] = ("contiguous", "original")  # the kinds it knows, its default first
    state: tuple[str, ...] = ()  # attributes of the inner model that a call leaves changed
    packed: tuple[str, ...] = ()  # modalities whose features the model takes as one tensor, not as a list
    extra_inputs: tuple[str, ...] = ()  # inputs of the encoder that its signature does not name
    position_inputs: tuple[str, ...] = ()  # inputs that only positions are made of
    newlines = False  # whether the model puts rows of its own, ``image_newline``, among the tokens

    def encode(self, model: Any, inputs: Mapping[str, Any], modality: str) -> Features:
        """Runs the model's own encoder on all images or videos of a batch.

        Raises:
            ValueError: unless ``input_ids`` has a placeholder for every token.
        """
        encoder = getattr(model.model, f"get_{modality}_features")
        arguments = {name: inputs[name] for name in self.encoder_inputs(model, modality) if name in inputs}
        output = encoder(inputs[PIXELS[modality]], **arguments, return_dict=True)
        placeholders = inputs["input_ids"] == getattr(model.config, f"{modality}_token_id")
        features = self.features(model, modality, output, placeholders)
        if int(placeholders.sum()) != len(features.tokens):
            raise ValueError(
                f"prune_inputs: expected input_ids to have {len(features.tokens)} {modality} placeholders, one for "
                f"each token that the model makes of {PIXELS[modality]}, got {int(placeholders.sum())}"
            )
        return features

    def features(self, model: Any, modality: str, output: Any, placeholders: Tensor) -> Features:
        """What an encoder's output holds."""
        deepstack = getattr(output, "deepstack_features", None) or []
        joined = bool(deepstack) and isinstance(deepstack[0], Tensor)
        tokens, counts = self.tokens(output.pooler_output, placeholders)
        return Features(
            modality,
            tokens,
            counts,
            [layer if joined else torch.cat(list(layer)) for layer in deepstack],
            placeholders,
            Layout(type(output), modality in self.packed, joined),
        )

    def encoder_inputs(self, model: Any, modality: str) -> list[str]:
        """The names of the encoder's inputs other than the pixel values."""
        _, *names = inspect.signature(getattr(model.model, f"get_{modality}_features")).parameters
        # That one is the language model's too.
        return [*(name for name in names if name != "output_hidden_states"), *self.extra_inputs]

    def tokens(self, pooler_output: Any, placeholders: Tensor) -> tuple[Tensor, list[int]]:
        """The encoder's tokens ``[sum of n_i, D]``, and how many each image or video has."""
        items = [item.flatten(0, -2) for item in pooler_output]
        return torch.cat(items), [len(item) for item in items]

    def position_ids(
        self, model: Any, inputs: Mapping[str, Any], positions: str, shortening: Shortening, attention_mask: Tensor
    ) -> Tensor | None:
        """The positions of the tokens that stay, ``[..., B, L']``; None where the model shall number them itself.

        Args:
            model: the model.
            inputs: its inputs before shortening; ``position_ids`` among them are shortened as they are.
            positions: one of the kinds that the family knows.
            shortening: what becomes of a tensor with one value per token.
            attention_mask: the shortened one.
        """
        if "position_ids" not in inputs and positions == "contiguous":
            return None
        return shortening(inputs.get("position_ids", positions_of(inputs["attention_mask"])), 0)

    def repeated(self, modality: str, placeholders: Tensor) -> tuple[list[int], dict[str, Tensor]]:
        """How ``generate`` repeats pixel values for beams, where models take no encoder outputs (transformers < 5.19).

        Args:
            modality: ``"image"`` or ``"video"``.
            placeholders: bool ``[B, L']``.

        Returns:
            the sizes of the groups of tokens that it keeps together, and the inputs that it tells them from.
        """
        return placeholders.sum(-1).tolist(), {}

    def class_attention_items(
        self, model: Any, inputs: Mapping[str, Any], modality: str, attention: Tensor
    ) -> list[Tensor]:
        """Brings the class token's attention to the patches ``[tiles, patches]`` into the order of the tokens.

        Returns:
            ``[n_i]`` for each image or video.
        """
        return list(attention)
