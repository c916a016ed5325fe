"""The pruning of a model's inputs: encode, select, shorten, and inject the kept features."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ...arguments import check_tensor, number
from ...methods import METHODS, check_method
from ..budget import Budget, budgets, check_budget
from ..row_selection import select_rows
from .conversation import Conversation, begin, begin_text, padding_id
from .families import family_of, unwrapped
from .family import PIXELS, Family, Features, has_pixels, placeholder_ids
from .feature_injection import EncoderOutputs, KeptFeatures
from .finite import warn_of_non_finite
from .loaded_parameters import loaded_parameters
from .pruned_inputs import PrunedInputs
from .sequences import FILL, Shortening, cached_length, column_after_the_last
from .token_weights import Importance, check_importance, check_sign, weights


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
    check_finite: bool | None = None,
) -> PrunedInputs:
    """Prunes the visual tokens of one call before the language model's first layer.

    The model's own encoder encodes the images and videos once. The kept tokens stay in their original order, and the
    prompt is shortened to them. The model is not changed.

    Args:
        model: a model of one of the supported families (``...ForConditionalGeneration``), also inside
            ``torch.compile``, PEFT, ``DataParallel`` or ``DistributedDataParallel``.
        inputs: what its processor made: int64 ``input_ids`` ``[B, L]``, ``attention_mask`` ``[B, L]`` (all ones where
            it is missing), ``pixel_values``, ``pixel_values_videos`` and what belongs to them. ``labels``, token type
            ids and ``position_ids`` are shortened, everything else is passed on. Without pixels, nothing changes.
        method: ``"divprune"`` (Alvar et al., CVPR 2025), ``"mmr"`` (Carbonell & Goldstein, 1998; needs ``relevance``),
            ``"idpruner"`` (Tan et al., 2026; needs ``importance``) or ``"dpp"`` (Chen et al., 2018; needs
            ``relevance``, not negative; ``"text"`` is scaled to (0, 1] for each image, as in CDPruner).
        k: how many tokens to keep of each image or video, at least 1: one number, or one for each of the images, then
            of the videos. One with fewer tokens keeps them all (in ``tokenprune_kernels.prune`` that is an error). Give
            this or ``keep_ratio``.
        keep_ratio: the share of tokens to keep, in (0, 1], likewise; rounded half to even, at least one token.
        importance: for ``"idpruner"``, the weights of the tokens: a tensor ``[T]`` over all images, then videos;
            a tensor ``[n_i]`` for each; a callable that makes ``[n, D]`` tokens into ``[n]`` weights, such as
            ``VisionSelectorScorer``; ``"norm"``; ``"text"``, the cosine to the mean embedding of the prompt's text,
            which may be negative; or ``"cls_attention"``, the attention of the vision tower's class token.
        relevance: for ``"mmr"`` and ``"dpp"``, likewise.
        lam: the weight of relevance or importance against diversity, in [0, 1]: 1 ranks by relevance or importance
            alone, 0 by diversity alone. By default 0.5; for ``"mmr"`` and ``"idpruner"``.
        scope: ``"item"`` for a budget of each image or video, ``"batch"`` for one that the whole batch shares.
        positions: ``"contiguous"`` numbers the shortened prompt anew, ``"original"`` leaves every token its position.
            By default contiguous; always original for the Qwen-VL models. Attention would read original positions with
            gaps as several packed sequences, so a masked column is added in front where no row is padded. Original
            positions need text after a prompt's last image or video, as an answer is numbered from the last token.
        protect_newlines: keep the ``image_newline`` tokens of LLaVA-NeXT and LLaVA-OneVision in addition to the budget;
            otherwise they are candidates like any other token.
        check_finite: whether to look for NaN and infinity in the tokens and weights, and to warn of them once for a
            model. By default on the CPU only; on a GPU it waits for the device.

    Returns:
        A new mapping for ``model(**pruned)`` and for any number of calls ``model.generate(**pruned)`` (one where the
        inputs have a cache), which return the shortened prompt followed by the new tokens. Rows that were padded are
        padded on the same side, others on the left. The features have no gradients; ``enable_pruning`` keeps them.
        ``next_step`` of the result makes the inputs of the next pass in a decoding loop of your own, ``next_turn``
        those of a further turn of a chat.

    Raises:
        ValueError, TypeError: naming the argument, what was expected and what came.

    Complexity:
        One run of the encoder, and one varlen operator over all images and videos.

    Example:
        A LLaVA model with random weights, and a prompt with the 16 tokens of one image:

        >>> from transformers import LlavaConfig, LlavaForConditionalGeneration
        >>> size = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 2, "num_attention_heads": 1}
        >>> vision = {"model_type": "clip_vision_model", "image_size": 16, "patch_size": 4, **size}
        >>> text = {"model_type": "llama", "vocab_size": 100, "num_key_value_heads": 1, **size}
        >>> config = LlavaConfig(vision_config=vision, text_config=text, image_token_index=99)
        >>> model = LlavaForConditionalGeneration(config).eval()
        >>> inputs = {"input_ids": torch.tensor([[1, *[99] * 16, 2]]), "pixel_values": torch.ones(1, 3, 16, 16)}
        >>> pruned = prune_inputs(model, inputs, keep_ratio=0.25)
        >>> pruned["input_ids"].tolist()
        [[1, 99, 99, 99, 99, 2]]
        >>> new_tokens = model.generate(**pruned, max_new_tokens=3, min_new_tokens=3)[:, pruned["input_ids"].shape[1] :]
        >>> new_tokens.shape
        torch.Size([1, 3])
    """
    pruning = Pruning(
        method, k, keep_ratio, importance, relevance, lam, scope, positions, protect_newlines, check_finite
    )
    return pruning(unwrapped(model), inputs)


@dataclass(frozen=True)
class Pruning:
    """The arguments of ``prune_inputs``, checked. A call prunes as that function does, but keeps gradients."""

    method: str = "divprune"
    k: Budget | None = None
    keep_ratio: Budget | None = None
    importance: Importance | None = None
    relevance: Importance | None = None
    lam: float | None = None
    scope: str = "item"
    positions: str | None = None
    protect_newlines: bool = False
    check_finite: bool | None = None

    def __post_init__(self) -> None:
        check_budget("prune_inputs", self.k, self.keep_ratio)
        check_method(
            "prune_inputs", self.method, {"relevance": self.relevance, "importance": self.importance}, self.lam
        )
        if self.lam is not None and not 0 <= number("prune_inputs", "lam", self.lam) <= 1:
            raise ValueError(f"prune_inputs: expected lam to be in [0, 1], got {self.lam:g}")
        if self.scope not in ("item", "batch"):
            raise ValueError(f"prune_inputs: expected scope to be 'item' or 'batch', got {self.scope!r}")
        check_importance("importance", self.importance)
        check_importance("relevance", self.relevance)
        check_sign(self.method, self.relevance)

    def __call__(self, model: Any, inputs: Mapping[str, Any]) -> PrunedInputs:
        """Prunes the inputs of one call, see ``prune_inputs``."""
        family = family_of(model)
        positions = self._positions(model, family)
        # Reading PrunedInputs builds encoder outputs; read .data instead.
        held, given = None, inputs
        if isinstance(inputs, PrunedInputs):
            inputs.check_cache("prune_inputs")
            held, given = inputs.conversation, inputs.data
        inputs = {name: value for name, value in given.items() if value is not None}
        if held is None and (has_pixels(inputs) or has_placeholders(model, family, inputs.get("input_ids"))):
            _check_cache(inputs)
        if not has_pixels(inputs):
            passed_on = PrunedInputs(inputs)
            passed_on.conversation = _without_pixels(model, inputs) if held is None else held
            return passed_on
        _check_inputs(model, family, inputs)
        inputs.setdefault("attention_mask", torch.ones_like(inputs["input_ids"]))
        if "position_ids" in inputs:
            position_ids = inputs["position_ids"]
            inputs["position_ids"] = position_ids.expand(*position_ids.shape[:-2], *inputs["input_ids"].shape)
        with loaded_parameters(model):
            features = self._encode(model, family, inputs)
            kept = self._kept(model, family, inputs, features)
        keep = torch.ones_like(inputs["input_ids"], dtype=torch.bool)
        for each, mask in zip(features, kept, strict=True):
            keep[each.placeholders] = mask.to(keep.device)
        shortening, shortened, after = _shorten(model, family, inputs, keep, positions)
        if "position_ids" in shortened:
            _check_end(model, family, inputs, keep)
        kept_features = {
            each.modality: KeptFeatures(each, mask, shortening(each.placeholders, False))
            for each, mask in zip(features, kept, strict=True)
        }
        pruned = PrunedInputs(shortened | {"mm_encoder_outputs": kept_features})
        counts = [count for each in features for count in each.counts]
        pruned.kept_indices = [mask.nonzero().squeeze(-1) for mask in torch.cat(kept).split(counts)]
        pruned.grids = [grid for each in features for grid in each.grids]
        pruned.kept_columns = shortening.columns().masked_fill(shortened["attention_mask"] == 0, -1)
        pruned.conversation = begin(model, shortened, inputs["input_ids"], shortened.get("position_ids"), after)
        return pruned if held is None else held.joined(pruned)

    def _positions(self, model: Any, family: Family) -> str:
        positions = family.positions[0] if self.positions is None else self.positions
        if positions not in family.positions:
            expected = " or ".join(repr(known) for known in family.positions)
            raise ValueError(
                f"prune_inputs: expected positions to be {expected} for {type(model).__name__}, got {positions!r}"
            )
        return positions

    def _encode(self, model: Any, family: Family, inputs: Mapping[str, Any]) -> list[Features]:
        """Encodes the images, and the videos."""
        modalities = [modality for modality in family.modalities if PIXELS[modality] in inputs]
        attention = "cls_attention" in [each for each in (self.importance, self.relevance) if isinstance(each, str)]
        return [family.encode(model, inputs, modality, with_class_attention=attention) for modality in modalities]

    def _kept(self, model: Any, family: Family, inputs: Mapping[str, Any], features: list[Features]) -> list[Tensor]:
        """Selects tokens: bool ``[sum of n_i]`` for the images and for the videos, True where one stays."""
        tokens = torch.cat([each.tokens for each in features])
        kept = torch.cat([self._protected(model, family, each) for each in features])
        candidates = (~kept).nonzero().squeeze(-1)
        counts = [int((~mask).sum()) for mask in kept.split([count for each in features for count in each.counts])]
        if self.scope == "batch":
            counts = [len(candidates)]
        argument, weight = METHODS[self.method].weight, None
        if argument is not None:
            weight = weights(self.method, argument, getattr(self, argument), model, inputs, features)
        if self.check_finite or (self.check_finite is None and tokens.device.type == "cpu"):
            warn_of_non_finite(model, features, tokens, argument, weight)
        if weight is not None:
            weight = weight[candidates]
        kept_counts = budgets("prune_inputs", counts, self.k, self.keep_ratio)
        indices = select_rows(tokens[candidates], counts, kept_counts, self.method, weight, self.lam)
        kept[candidates[indices]] = True
        return list(kept.split([len(each.tokens) for each in features]))

    def _protected(self, model: Any, family: Family, features: Features) -> Tensor:
        """Which tokens stay in addition to the budget, bool ``[sum of n_i]``."""
        tokens = features.tokens
        if family.newlines and self.protect_newlines:
            return (tokens == model.model.image_newline.to(tokens)).all(-1)
        return torch.zeros(len(tokens), dtype=torch.bool, device=tokens.device)


def has_placeholders(model: Any, family: Family, input_ids: Tensor | None) -> bool:
    """Whether there are placeholders of images or videos among the tokens."""
    return input_ids is not None and any(
        bool((input_ids == token_id).any()) for token_id in placeholder_ids(model, family)
    )


def _without_pixels(model: Any, inputs: Mapping[str, Any]) -> Conversation | None:
    """The conversation that a prompt of text begins, or one that was pruned before."""
    encoded = inputs.get("mm_encoder_outputs")
    if not isinstance(encoded, EncoderOutputs) or encoded.conversation is None:
        return begin_text(model, inputs)
    return replace(encoded.conversation, whole=encoded.conversation.input_ids)


def _check_end(model: Any, family: Family, inputs: Mapping[str, Any], keep: Tensor) -> None:
    """Raises for a prompt that ends in an image or video of which tokens are dropped.

    ``generate`` numbers an answer from the position of the last token, which may be one that comes before the last.
    """
    last = (column_after_the_last(inputs["attention_mask"]) - 1).clamp_min(0)
    token_ids = torch.tensor(placeholder_ids(model, family), device=inputs["input_ids"].device)
    ends = torch.isin(inputs["input_ids"].gather(1, last), token_ids)
    if bool((ends & ~keep.all(-1, keepdim=True)).any()):
        raise ValueError(
            "prune_inputs: expected text after the last image or video of a prompt with positions 'original', got a "
            "prompt that ends in one"
        )


def _check_cache(inputs: Mapping[str, Any]) -> None:
    length = cached_length(inputs.get("past_key_values"))
    if length > 0:
        raise ValueError(
            "prune_inputs: expected an empty cache, or the inputs that PrunedInputs.next_turn returns, got "
            f"past_key_values of {length} tokens"
        )


def _check_inputs(model: Any, family: Family, inputs: Mapping[str, Any]) -> None:
    input_ids = inputs.get("input_ids")
    if input_ids is not None:
        check_tensor("prune_inputs", "input_ids", input_ids)
    for modality, name in PIXELS.items():
        pixels = inputs.get(name)
        if isinstance(pixels, Sequence) and pixels and not isinstance(pixels, str):
            for number, each in enumerate(pixels):
                check_tensor("prune_inputs", f"{name} of {modality} {number}", each)
        elif pixels is not None:
            check_tensor("prune_inputs", name, pixels)
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
    """Whether several sequences are packed into a row, which (t, h, w) without a row of text positions cannot tell."""
    if position_ids is None or (position_ids.dim() == 3 and len(position_ids) != 4):
        return False
    numbers = position_ids[0] if position_ids.dim() == 3 else position_ids
    return bool((numbers.diff() < 0).any())


def _shorten(
    model: Any, family: Family, inputs: Mapping[str, Any], keep: Tensor, positions: str
) -> tuple[Shortening, dict[str, Any], Tensor]:
    """Drops tokens from the inputs of the language model, and the inputs that only the encoder reads.

    Also returns the position of the first token after the prompt, ``[B, 1]``.
    """
    for spare in (0, 1):
        shortening = Shortening(keep, inputs["attention_mask"], spare)
        attention_mask = shortening(inputs["attention_mask"], 0)
        position_ids, after = family.position_ids(model, inputs, positions, shortening, attention_mask)
        if position_ids is None or not _reads_as_packed(position_ids, attention_mask):
            break
    consumed = {*PIXELS.values(), *family.position_inputs, "position_ids"}
    for modality in family.modalities:
        consumed.update(family.encoder_inputs(model, modality))
    shortened = {name: value for name, value in inputs.items() if name not in consumed}
    for name in FILL.keys() & shortened.keys():
        shortened[name] = shortening(inputs[name], FILL[name])
    shortened["input_ids"] = shortening(inputs["input_ids"], padding_id(model))
    if position_ids is not None:
        shortened["position_ids"] = position_ids
    return shortening, shortened, after


def _reads_as_packed(position_ids: Tensor, attention_mask: Tensor) -> bool:
    """Whether attention would read gaps in the positions as boundaries of packed sequences.

    It does so without a mask, and ``generate`` and FlashAttention both drop a mask of ones.
    """
    numbers = position_ids[0] if position_ids.dim() == 3 else position_ids
    return bool(attention_mask.all() and (numbers.diff() != 1).any())
