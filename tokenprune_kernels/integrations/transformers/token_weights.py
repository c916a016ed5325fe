"""The weights of visual tokens, relevance or importance, from a tensor, a callable or a name."""

from __future__ import annotations

import numbers
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ...arguments import check_tensor, remedy
from ...importance import VisionSelectorScorer, norm
from .family import Features

Importance = str | Tensor | Sequence[Tensor] | Callable[[Tensor], Tensor]

NAMES = ("norm", "text", "cls_attention")
_SIGNED = "expected relevance to be at least 0 with method 'dpp'"


def weights(
    method: str,
    argument: str,
    importance: Importance,
    model: Any,
    inputs: Mapping[str, Any],
    features: list[Features],
) -> Tensor:
    """Computes one weight for each token of all images and videos, ``[T]``.

    Args:
        method: the DPP takes ``"text"`` scaled to [0, 1] for each image and video.
        argument: ``"relevance"`` or ``"importance"``, for errors.
        importance: the value of that argument.
        model: the model.
        inputs: its inputs before shortening.
        features: the tokens of the images, and of the videos.

    Raises:
        ValueError: unless there is one weight for each token, not negative for the DPP.
    """
    if isinstance(importance, str):
        if importance == "norm":
            return torch.cat([norm(each.tokens) for each in features])
        if importance == "text":
            similarity = _text_similarity(model, inputs, features)
            counts = [count for each in features for count in each.counts]
            return torch.cat([_scaled(each) for each in similarity.split(counts)]) if method == "dpp" else similarity
        return torch.cat([attention for each in features for attention in each.class_attention])
    items = [item for each in features for item in each.tokens.split(each.counts)]
    if isinstance(importance, Tensor):
        weight = _checked_tensor(argument, importance, items).to(items[0].device)
    else:
        given = [importance(item) for item in items] if callable(importance) else importance
        weight = torch.cat([each.to(items[0].device) for each in _checked_list(argument, given, items)])
    if method == "dpp" and bool((weight < 0).any()):
        raise ValueError(f"prune_inputs: {_SIGNED}, got {float(weight[weight < 0][0]):.6g}")
    return weight


def check_sign(method: str, relevance: Any) -> None:
    """Raises for a relevance that is signed by its nature, with the DPP."""
    if method == "dpp" and isinstance(relevance, VisionSelectorScorer):
        raise ValueError(f"prune_inputs: {_SIGNED}, got VisionSelectorScorer, whose scores are signed")


def _scaled(similarity: Tensor) -> Tensor:
    """A similarity scaled to (0, 1] by its finite extremes, as CDPruner does (arXiv 2506.10967, section 3)."""
    finite = similarity.isfinite()
    least = similarity.masked_fill(~finite, torch.inf).amin()
    most = similarity.masked_fill(~finite, -torch.inf).amax()
    return (similarity - least + 1e-6) / (most - least + 1e-6)


def check_importance(argument: str, importance: Any) -> None:
    """Raises unless the argument is of a kind that ``weights`` accepts."""
    if isinstance(importance, str) and importance not in NAMES:
        raise ValueError(
            f"prune_inputs: expected {argument} to be a tensor, a callable or one of {', '.join(NAMES)}, "
            f"got {importance!r}"
        )
    if importance is None or isinstance(importance, str) or callable(importance):
        return
    if isinstance(importance, Tensor):
        _check_weight(argument, importance)
    elif isinstance(importance, Sequence):
        if importance and isinstance(importance[0], numbers.Number):
            check_tensor("prune_inputs", argument, importance)
        for number, weight in enumerate(importance):
            _check_weight(f"{argument} of image or video {number}", weight)
    else:
        raise TypeError(
            f"prune_inputs: expected {argument} to be a tensor, a callable or one of {', '.join(NAMES)}, "
            f"got {type(importance).__name__}{remedy(importance)}"
        )


def _check_weight(named: str, weight: Any) -> None:
    """Raises unless weights are a dense tensor of a dtype that the operators take."""
    check_tensor("prune_inputs", named, weight)
    if not weight.is_floating_point():
        got = str(weight.dtype).removeprefix("torch.")
        raise TypeError(f"prune_inputs: expected {named} to be float16, bfloat16, float32 or float64, got {got}")


def _checked_tensor(argument: str, weight: Tensor, items: list[Tensor]) -> Tensor:
    """The weights of all tokens, ``[T]``, also from ``[items, n]`` where all items have n tokens."""
    shapes = [[sum(len(item) for item in items)]]
    if len({len(item) for item in items}) == 1:
        shapes.append([len(items), len(items[0])])
    if list(weight.shape) not in shapes:
        expected = " or ".join(str(shape) for shape in shapes)
        raise ValueError(
            f"prune_inputs: expected {argument} to have shape {expected}, one weight for each visual token, "
            f"got shape {list(weight.shape)}"
        )
    return weight.flatten()


def _checked_list(argument: str, weights: Sequence[Tensor], items: list[Tensor]) -> Sequence[Tensor]:
    """The weights of each image and video, ``[n_i]``."""
    if len(weights) != len(items):
        raise ValueError(
            f"prune_inputs: expected {argument} to have {len(items)} tensors, one for each image or video, "
            f"got {len(weights)}"
        )
    for number, (weight, item) in enumerate(zip(weights, items, strict=True)):
        _check_weight(f"{argument} of image or video {number}", weight)
        if weight.shape != item.shape[:1]:
            raise ValueError(
                f"prune_inputs: expected {argument} of image or video {number} to have shape [{len(item)}], "
                f"got shape {list(weight.shape)}"
            )
    return weights


def _text_similarity(model: Any, inputs: Mapping[str, Any], features: list[Features]) -> Tensor:
    """The cosine of each visual token to the mean embedding of its prompt's text, float32 ``[T]``."""
    text = inputs["attention_mask"] != 0
    for each in features:
        text = text & ~each.placeholders
    embedding = model.get_input_embeddings()
    input_ids = inputs["input_ids"]
    if embedding.weight.device.type != "meta":  # as it is under accelerate's offloading, which moves its input too
        input_ids = input_ids.to(embedding.weight.device)
    embeddings = embedding(input_ids).float()
    text = text.to(embeddings)
    # A matrix product would take the precision of autocast, or TF32.
    mean = (text.unsqueeze(-1) * embeddings).sum(1) / text.sum(-1, keepdim=True).clamp_min(1)
    similarities = []
    for each in features:
        rows = each.placeholders.nonzero()[:, 0].to(mean.device)  # the prompt of each token
        similarities.append(F.cosine_similarity(each.tokens.float(), mean[rows].to(each.tokens.device), dim=-1))
    return torch.cat(similarities)
