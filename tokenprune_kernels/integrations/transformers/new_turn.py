"""What ``PrunedInputs.next_turn`` takes: the inputs of a new turn alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ...arguments import check_tensor
from .conversation import Conversation
from .family import has_pixels
from .sequences import FILL


def check_new_turn(conversation: Conversation, inputs: Any) -> None:
    """Raises in the name of ``next_turn`` for inputs that are not those of a new turn alone.

    Args:
        conversation: what came before.
        inputs: what the caller takes for a new turn.

    Raises:
        ValueError, TypeError: naming the argument, what was expected and what came.
    """
    if not isinstance(inputs, Mapping):
        raise TypeError(
            f"next_turn: expected inputs to be what the processor makes of the new turn, got {type(inputs).__name__}"
        )
    rows, ids = len(conversation.input_ids), inputs.get("input_ids")
    if ids is not None:
        check_tensor("next_turn", "input_ids", ids)
    if ids is None or ids.dim() != 2 or len(ids) != rows or ids.shape[1] == 0:
        got = "none" if ids is None else f"shape {list(ids.shape)}"
        raise ValueError(f"next_turn: expected input_ids of the new turn alone, of shape [{rows}, n], got {got}")
    for name in FILL:
        value = inputs.get(name)
        if value is None:
            continue
        check_tensor("next_turn", name, value)
        if value.shape != ids.shape:
            raise ValueError(
                f"next_turn: expected {name} to have the shape of the new turn's input_ids, {list(ids.shape)}, got "
                f"shape {list(value.shape)}"
            )
    mask = inputs.get("attention_mask")
    if mask is not None and bool((mask[:, -1] == 0).any()):
        raise ValueError(
            "next_turn: expected padding on the left and at least one new token in each row, got an attention_mask "
            "that ends in 0"
        )
    if "mm_encoder_outputs" in inputs:
        raise ValueError(
            "next_turn: expected what the processor makes of the new turn, got pruned inputs (prune what next_turn "
            "returns)"
        )
    if "past_key_values" in inputs:
        raise ValueError("next_turn: expected no past_key_values in inputs, as output has the cache, got some")
    if inputs.get("position_ids") is not None:
        raise ValueError("next_turn: expected no position_ids in inputs, as they follow from earlier turns, got some")
    if _begins_again(conversation, ids, mask):
        raise ValueError(
            f"next_turn: expected input_ids of the new turn alone, got {ids.shape[1]} tokens that begin with the first "
            "prompt again"
        )
    found = int(_visual(conversation, ids).sum())
    if found and not has_pixels(inputs):
        raise ValueError(
            f"next_turn: expected pixel values for the {found} placeholders of images or videos in input_ids, got none"
        )


def _begins_again(conversation: Conversation, ids: Tensor, mask: Tensor | None) -> bool:
    """Whether a row begins with the first prompt and goes on from there.

    The texts are compared, as the first prompt may come with all its placeholders or with those that were kept. The
    same prompt once more is a new turn.
    """
    there = torch.ones_like(ids) if mask is None else mask
    columns = slice(conversation.first_columns)
    prompts, prompts_there = (
        each[:, columns].to(ids.device) for each in (conversation.input_ids, conversation.attention_mask)
    )
    for tokens, prompt in zip(
        (row[unmasked != 0] for row, unmasked in zip(ids, there, strict=True)),
        (row[unmasked != 0] for row, unmasked in zip(prompts, prompts_there, strict=True)),
        strict=True,
    ):
        visual, visual_before = _visual(conversation, tokens), _visual(conversation, prompt)
        text, text_before = tokens[~visual], prompt[~visual_before]
        same = torch.equal(text[: len(text_before)], text_before)
        if same and len(text) > len(text_before) > 0 and bool(visual.any()) >= bool(visual_before.any()):
            return True
    return False


def _visual(conversation: Conversation, ids: Tensor) -> Tensor:
    """Which tokens stand for images and videos."""
    return torch.isin(ids, torch.tensor(conversation.placeholders, dtype=ids.dtype, device=ids.device))
