"""The pruning of a model's inputs, from the encoder to the hand-over."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ...methods import check_method
from .families import family_of
from .family import PIXELS, Family, Features
from .hand_over import HandedOver, Pruned, PrunedInputs, hand_over
from .importance import Importance, check_importance, recorded_class_attention, weights
from .selection import Budget, budgets, check_budget, select
from .sequences import FILL, Shortening


@torch.no_grad()
def prune_inputs(
    model: Any,
    inputs: Mapping[str, Any],
    *,
    method: str = "divprune",
    k: Budget | None = None,
    keep_ratio: Budget | None = None,
    importance: Importance | None = None,
    relevance: Importance | None = None,
    lam: float | None = None,
    scope: str = "item",
    positions: str | None = None,
    protect_newlines: bool = False,
) -> PrunedInputs:
    """Inputs for the same model, with most of their visual tokens dropped before the language model's first layer.

    The images and videos are encoded once, by the model's own encoder, and the kept tokens stay in their original
    order. ``generate`` on the result returns the shortened prompt and the new tokens, so slice with the length of the
    result's own ``input_ids``::

        pruned = prune_inputs(model, inputs, keep_ratio=0.1)
        new_tokens = model.generate(**pruned)[:, pruned["input_ids"].shape[1]:]

    Args:
        model: a model of one of the supported families (``...ForConditionalGeneration``).
        inputs: what its processor made: int64 ``input_ids`` ``[B, L]``, ``attention_mask`` ``[B, L]`` (all ones where
            it is missing), ``pixel_values``, ``pixel_values_videos`` and what belongs to them. ``labels``, token type
            ids and ``position_ids`` are shortened, everything else is passed on. Without pixels, nothing changes.
        method: ``"divprune"`` (Alvar et al., CVPR 2025), ``"mmr"`` (Carbonell & Goldstein, 1998; needs ``relevance``),
            ``"idpruner"`` (Tan et al., 2026; needs ``importance``) or ``"dpp"`` (Chen et al., 2018; needs
            ``relevance``, not negative).
        k: how many tokens to keep of each image or video, at least 1: one number, or one for each of the images, then
            of the videos. One with fewer tokens keeps them all. Give this or ``keep_ratio``.
        keep_ratio: the share of tokens to keep, in (0, 1], likewise; rounded half to even, at least one token.
        importance: for ``"idpruner"``, the weights of the tokens: a tensor ``[T]`` over all images, then videos;
            a tensor ``[n_i]`` for each; a callable that makes ``[n, D]`` tokens into ``[n]`` weights, such as
            ``VisionSelectorScorer``; ``"norm"``; ``"text"``, the cosine to the mean embedding of the prompt's text; or
            ``"cls_attention"``, the attention of the vision tower's class token.
        relevance: for ``"mmr"`` and ``"dpp"``, likewise.
        lam: the share of relevance or importance, in [0, 1], by default 0.5; for ``"mmr"`` and ``"idpruner"``.
        scope: ``"item"`` for a budget of each image or video, ``"batch"`` for one that the whole batch shares.
        positions: ``"contiguous"`` numbers the shortened prompt anew, ``"original"`` leaves every token its position.
            By default contiguous; always original for the Qwen-VL models. Positions with gaps come with a masked column
            in front where no row is padded, without which they would be read as several packed sequences.
        protect_newlines: keep the rows of LLaVA-NeXT's and LLaVA-OneVision's ``image_newline`` beside the budget,
            rather than as candidates like any other.

    Returns:
        A new mapping, good for any number of calls of ``generate`` (a plain ``dict`` of it for one); rows that were
        padded are padded on the same side, others on the left. The encoder runs without gradients; ``enable_pruning``
        keeps them. A decoding loop of your own counts masks and positions from the shortened prompt; where it
        interleaves prompts on a Qwen-VL model, which keeps the offset of its last one, it has to pass ``position_ids``.

    Raises:
        ValueError, TypeError: naming the argument, what was expected and what came.
    """
    pruning = Pruning(method, k, keep_ratio, importance, relevance, lam, scope, positions, protect_newlines)
    return pruning(model, inputs)


def has_pixels(inputs: Mapping[str, Any]) -> bool:
    """Whether there are images or videos to encode."""
    pixels = [inputs.get(name) for name in PIXELS.values()]
    return any(value is not None and not isinstance(value, HandedOver) for value in pixels)


@dataclass(frozen=True)
class Pruning:
    """The arguments of ``prune_inputs``, checked, and its work, which keeps gradients."""

    method: str = "divprune"
    k: Budget | None = None
    keep_ratio: Budget | None = None
    importance: Importance | None = None
    relevance: Importance | None = None
    lam: float | None = None
    scope: str = "item"
    positions: str | None = None
    protect_newlines: bool = False

    def __post_init__(self) -> None:
        check_budget(self.k, self.keep_ratio)
        check_method(
            "prune_inputs", self.method, {"relevance": self.relevance, "importance": self.importance}, self.lam
        )
        if self.scope not in ("item", "batch"):
            raise ValueError(f"prune_inputs: expected scope to be 'item' or 'batch', got {self.scope!r}")
        check_importance("importance", self.importance)
        check_importance("relevance", self.relevance)

    def __call__(self, model: Any, inputs: Mapping[str, Any]) -> PrunedInputs:
        """The pruned inputs, see ``prune_inputs``."""
        family = family_of(model)
        positions = self._positions(model, family)
        # Looking at pruned inputs would use them up.
        given = inputs.data if isinstance(inputs, PrunedInputs) else inputs
        inputs = {name: value for name, value in given.items() if value is not None}
        if not has_pixels(inputs):
            return PrunedInputs(inputs)
        _check_inputs(model, family, inputs)
        inputs.setdefault("attention_mask", torch.ones_like(inputs["input_ids"]))
        if "position_ids" in inputs:
            position_ids = inputs["position_ids"]
            inputs["position_ids"] = position_ids.expand(*position_ids.shape[:-2], *inputs["input_ids"].shape)
        features = self._encode(model, family, inputs)
        kept = self._kept(model, family, inputs, features)
        keep = torch.ones_like(inputs["input_ids"], dtype=torch.bool)
        for each, mask in zip(features, kept, strict=True):
            keep[each.placeholders] = mask.to(keep.device)
        shortening, shortened = _shorten(model, family, inputs, keep, positions)
        pruned = [
            Pruned(
                each.modality,
                each.tokens[mask],
                [layer[mask] for layer in each.deepstack],
                shortening(each.placeholders, False),
                each.layout,
            )
            for each, mask in zip(features, kept, strict=True)
        ]
        return PrunedInputs(shortened | hand_over(model, family, pruned))

    def _positions(self, model: Any, family: Family) -> str:
        positions = family.positions[0] if self.positions is None else self.positions
        if positions not in family.positions:
            expected = " or ".join(repr(known) for known in family.positions)
            raise ValueError(
                f"prune_inputs: expected positions to be {expected} for {type(model).__name__}, got {positions!r}"
            )
        return positions

    def _encode(self, model: Any, family: Family, inputs: Mapping[str, Any]) -> list[Features]:
        """What the encoder makes of the images, and of the videos."""
        modalities = [modality for modality in family.modalities if PIXELS[modality] in inputs]
        if "cls_attention" not in [each for each in (self.importance, self.relevance) if isinstance(each, str)]:
            return [family.encode(model, inputs, modality) for modality in modalities]
        features = []
        with recorded_class_attention(model, inputs) as attention:
            for modality in modalities:
                encoded = family.encode(model, inputs, modality)
                attended = family.class_attention_items(model, inputs, modality, attention())
                features.append(replace(encoded, class_attention=attended))
        return features

    def _kept(self, model: Any, family: Family, inputs: Mapping[str, Any], features: list[Features]) -> list[Tensor]:
        """Which tokens stay, bool ``[sum of n_i]`` of the images and of the videos."""
        tokens = torch.cat([each.tokens for each in features])
        kept = torch.cat([self._protected(model, family, each) for each in features])
        candidates = (~kept).nonzero().squeeze(-1)
        counts = [int((~mask).sum()) for mask in kept.split([count for each in features for count in each.counts])]
        if self.scope == "batch":
            counts = [len(candidates)]

        def candidate_weights(argument: str, given: Importance | None) -> Tensor | None:
            if given is None:
                return None
            return weights(argument, given, model, inputs, features)[candidates]

        indices = select(
            tokens[candidates],
            counts,
            budgets(counts, self.k, self.keep_ratio),
            self.method,
            candidate_weights("relevance", self.relevance),
            candidate_weights("importance", self.importance),
            self.lam,
        )
        kept[candidates[indices]] = True
        return list(kept.split([len(each.tokens) for each in features]))

    def _protected(self, model: Any, family: Family, features: Features) -> Tensor:
        """Which tokens stay beside the budget, bool ``[sum of n_i]``."""
        tokens = features.tokens
        if family.newlines and (self.protect_newlines or features.layout.adds_newline):
            return (tokens == model.model.image_newline.to(tokens)).all(-1)
        return torch.zeros(len(tokens), dtype=torch.bool, device=tokens.device)


def _check_inputs(model: Any, family: Family, inputs: Mapping[str, Any]) -> None:
    input_ids = inputs.get("input_ids")
    if input_ids is None or input_ids.dim() != 2:
        got = "none" if input_ids is None else f"shape {list(input_ids.shape)}"
        raise ValueError(f"prune_inputs: expected input_ids of shape [B, L] beside the pixel values, got {got}")
    for name in (*FILL, "position_ids"):
        if name not in inputs:
            continue
        shape = list(inputs[name].shape) if isinstance(inputs[name], Tensor) else None
        of_one_row = name == "position_ids" and shape is not None and shape[-2:] == [1, input_ids.shape[1]]
        if shape is None or (shape[-2:] != list(input_ids.shape) and not of_one_row):
            got = type(inputs[name]).__name__ if shape is None else f"shape {shape}"
            raise ValueError(
                f"prune_inputs: expected {name} to have the shape of input_ids, {list(input_ids.shape)}, got {got}"
            )
    if "attention_mask" not in inputs and _starts_again(inputs.get("position_ids")):
        raise ValueError(
            "prune_inputs: expected one sequence in each row of input_ids, got position_ids that start again within one"
        )
    for modality, name in PIXELS.items():
        if name in inputs and modality not in family.modalities:
            raise ValueError(f"prune_inputs: expected no {name} for {type(model).__name__}, got some")
    if "mm_encoder_outputs" in inputs:
        raise ValueError("prune_inputs: expected no mm_encoder_outputs beside pixel values, got some")


def _starts_again(position_ids: Tensor | None) -> bool:
    """Whether several sequences are packed into a row: of (t, h, w) alone, that cannot be told."""
    if position_ids is None or (position_ids.dim() == 3 and len(position_ids) != 4):
        return False
    numbers = position_ids[0] if position_ids.dim() == 3 else position_ids
    return bool((numbers.diff() < 0).any())


def _shorten(
    model: Any, family: Family, inputs: Mapping[str, Any], keep: Tensor, positions: str
) -> tuple[Shortening, dict[str, Any]]:
    """The inputs of the language model without the tokens that do not stay."""
    for spare in (0, 1):
        shortening = Shortening(keep, inputs["attention_mask"], spare)
        attention_mask = shortening(inputs["attention_mask"], 0)
        position_ids = family.position_ids(model, inputs, positions, shortening, attention_mask)
        if position_ids is None or not _reads_as_packed(position_ids, attention_mask):
            break
    spent = {*PIXELS.values(), *family.position_inputs, "position_ids"}
    for modality in family.modalities:
        spent.update(family.encoder_inputs(model, modality))
    shortened = {name: value for name, value in inputs.items() if name not in spent}
    for name in FILL.keys() & shortened.keys():
        shortened[name] = shortening(inputs[name], FILL[name])
    shortened["input_ids"] = shortening(inputs["input_ids"], _padding_id(model))
    if position_ids is not None:
        shortened["position_ids"] = position_ids
    return shortening, shortened


def _reads_as_packed(position_ids: Tensor, attention_mask: Tensor) -> bool:
    """Whether gaps in the positions would pass for the seams of packed sequences, as no mask says otherwise.

    ``generate`` and FlashAttention both drop a mask of ones.
    """
    numbers = position_ids[0] if position_ids.dim() == 3 else position_ids
    return bool(attention_mask.all() and (numbers.diff() != 1).any())


def _padding_id(model: Any) -> int:
    configs = (model.generation_config, model.config, model.config.get_text_config())
    token_ids = (getattr(config, "pad_token_id", None) for config in configs)
    return next((token_id for token_id in token_ids if token_id is not None and token_id >= 0), 0)
