"""The conversation that a cache holds, under ``enable_pruning``.

It is noted on the cache, so it is in no one's way: the model does not change, copies of the cache have it, and
conversations that take turns on a model, or run in several threads, do not meet.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .conversation import Conversation
from .pruned_inputs import PrunedInputs
from .sequences import FILL, cached_length

_ATTRIBUTE = "tokenprune_conversation"


def remember(cache: Any, conversation: Conversation | None) -> None:
    """Notes what a cache holds, if there is one."""
    if cache is not None and conversation is not None:
        setattr(cache, _ATTRIBUTE, conversation)


def cached_conversation(cache: Any) -> Conversation | None:
    """What a cache holds; None where nothing is noted, or it holds nothing, as after ``reset``."""
    if cached_length(cache) == 0:
        if hasattr(cache, _ATTRIBUTE):
            delattr(cache, _ATTRIBUTE)
        return None
    return getattr(cache, _ATTRIBUTE, None)


def new_inputs(held: Conversation, inputs: dict[str, Any]) -> tuple[PrunedInputs, Tensor]:
    """What the cache does not hold yet of the inputs of ``generate``, and the whole prompt without pruning.

    Args:
        held: what the cache held after the last call.
        inputs: ``input_ids`` of the whole conversation, as without pruning; or those of the new tokens alone beside an
            ``attention_mask`` of cache and new tokens. Pixel values are those of new images and videos.
    """
    ids, mask = inputs.get("input_ids"), inputs.get("attention_mask")
    length = cached_length(inputs["past_key_values"])
    if length > held.input_ids.shape[1]:
        raise ValueError(
            f"enable_pruning: expected the cache that the last call of generate left, of up to "
            f"{held.input_ids.shape[1]} tokens, got past_key_values of {length} tokens, to which something else has "
            "added"
        )
    if inputs.get("position_ids") is not None:
        raise ValueError("enable_pruning: expected no position_ids beside a filled cache, got some")
    before, held = held, _cropped(held, length)
    rows, start = held.whole.shape
    if ids is None or ids.dim() != 2 or len(ids) != rows:
        got = "none" if ids is None else f"shape {list(ids.shape)}"
        raise ValueError(f"enable_pruning: expected input_ids of shape [{rows}, L], got {got}")
    if ids.shape[1] > start and torch.equal(ids[:, :start].to(held.whole.device), held.whole):
        columns = ids.shape[1] - start
    elif mask is not None and mask.shape[1] - ids.shape[1] in (start, length):
        columns = ids.shape[1]
    else:
        raise ValueError(
            f"enable_pruning: expected input_ids to begin with the {start} tokens before the ones that the cache does "
            f"not hold, or an attention_mask of cache and new tokens, got {ids.shape[1]} tokens that differ"
        )
    given = {name: value for name, value in inputs.items() if name not in (*FILL, "input_ids") and value is not None}
    for name in ("input_ids", *FILL):
        if inputs.get(name) is not None:
            given[name] = inputs[name][:, -columns:]
    if mask is None:
        given["attention_mask"] = _mask_after(before, length, given["input_ids"])
    joined = PrunedInputs(given)
    joined.conversation = held
    return joined, torch.cat([held.whole.to(ids.device), given["input_ids"]], 1)


def with_positions(held: Conversation, inputs: dict[str, Any]) -> dict[str, Any]:
    """The inputs of a decoding step, with the positions and the mask that go with the shortened prompt.

    Inputs with positions stay as they are.
    """
    ids, mask = inputs.get("input_ids"), inputs.get("attention_mask")
    tokens = inputs.get("inputs_embeds") if ids is None else ids
    if inputs.get("position_ids") is not None or tokens is None:
        return inputs
    rows, count = tokens.shape[:2]
    if rows != len(held.input_ids):
        raise ValueError(
            f"enable_pruning: expected new tokens for each of the {len(held.input_ids)} rows of the cache, got {rows}"
        )
    length = cached_length(inputs["past_key_values"])
    before, held = held, _cropped(held, length)
    columns, whole = held.input_ids.shape[1], held.whole.shape[1]
    added = length - columns + count  # how many columns there are after those that are noted
    if mask is None:
        # Pruning may have padded rows of which the caller knows no padding.
        after = torch.ones(rows, added, dtype=held.attention_mask.dtype, device=tokens.device)
        if ids is not None:
            after[:, -count:] = _mask_after(before, length, ids)
        mask = torch.cat([held.attention_mask.to(after.device), after], 1)
    elif mask.dim() == 2 and mask.shape[1] == whole + added:
        mask = torch.cat([held.attention_mask.to(mask), mask[:, whole:]], 1)
    elif mask.dim() == 2 and mask.shape[1] != columns + added:
        raise ValueError(
            f"enable_pruning: expected attention_mask to have {columns + added} columns, or {whole + added} as without "
            f"pruning, got {mask.shape[1]}"
        )
    inputs = inputs | {"attention_mask": mask}
    if held.position_ids is None and not before.generated:  # the model numbers the columns itself
        return inputs
    after = mask[:, columns:] if mask.dim() == 2 else torch.ones(rows, added, dtype=torch.int64, device=mask.device)
    return inputs | {"position_ids": held.positions_after(after)[..., -count:].to(tokens.device)}


def _cropped(held: Conversation, length: int) -> Conversation:
    """The conversation up to the tokens that a cache still holds.

    Raises:
        ValueError: where tokens of a prompt with images or videos are missing.
    """
    surplus = held.input_ids.shape[1] - length
    if surplus <= 0:
        return held
    if surplus > held.generated and held.has_placeholders():
        raise ValueError(
            f"enable_pruning: expected a cache of at least {held.input_ids.shape[1] - held.generated} tokens, those of "
            f"the last prompt, got past_key_values of {length} tokens"
        )
    return held.cropped(length)


def _mask_after(held: Conversation, length: int, ids: Tensor) -> Tensor:
    """The mask of new tokens ``[B, n]``: ones, but for padding after an answer of which the cache lacks the end."""
    missing = held.input_ids[:, length : length + ids.shape[1]].to(ids.device)
    count = missing.shape[1]
    mask = torch.ones_like(ids)
    padding = held.attention_mask[:, length : length + count].to(ids.device) == 0
    mask[:, :count] = (~(padding & (ids[:, :count] == missing))).to(mask.dtype)
    return mask
