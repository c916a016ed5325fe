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
    """What a cache holds; None where nothing is noted, or it holds nothing."""
    return getattr(cache, _ATTRIBUTE, None) if cached_length(cache) > 0 else None


def new_inputs(held: Conversation, inputs: dict[str, Any]) -> tuple[PrunedInputs, Tensor]:
    """What the cache does not hold yet of the inputs of ``generate``, and the whole prompt without pruning.

    Args:
        held: what the cache held after the last call.
        inputs: ``input_ids`` of the whole conversation, as without pruning; or those of the new tokens alone beside an
            ``attention_mask`` of cache and new tokens. Pixel values are those of new images and videos.
    """
    ids, mask = inputs.get("input_ids"), inputs.get("attention_mask")
    length = cached_length(inputs["past_key_values"])
    surplus = held.input_ids.shape[1] - length
    if surplus < 0:
        raise ValueError(
            f"enable_pruning: expected the cache that the last call of generate left, of up to {length + surplus} "
            f"tokens, got past_key_values of {length} tokens, to which something else has added"
        )
    if surplus > held.generated:
        raise ValueError(
            f"enable_pruning: expected a cache of at least {held.input_ids.shape[1] - held.generated} tokens, those of "
            f"the last prompt, got past_key_values of {length} tokens"
        )
    held = held.cropped(length)
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
    joined = PrunedInputs(given)
    joined.conversation = held
    return joined, torch.cat([held.whole.to(ids.device), given["input_ids"]], 1)


def with_positions(held: Conversation, inputs: dict[str, Any]) -> dict[str, Any]:
    """The inputs of a decoding step, with the positions and the mask that go with the shortened prompt.

    Inputs with positions stay as they are.
    """
    tokens, mask = inputs.get("input_ids"), inputs.get("attention_mask")
    if tokens is None:
        tokens = inputs.get("inputs_embeds")
    if inputs.get("position_ids") is not None or tokens is None:
        return inputs
    start, count = cached_length(inputs["past_key_values"]) - held.input_ids.shape[1], tokens.shape[1]
    if mask is not None and mask.dim() == 2:
        shortened, whole = (each.shape[1] + start + count for each in (held.input_ids, held.whole))
        if mask.shape[1] == whole != shortened:
            before = held.attention_mask.to(mask)
            inputs = inputs | {"attention_mask": torch.cat([before, mask[:, held.whole.shape[1] :]], 1)}
        elif mask.shape[1] != shortened:
            raise ValueError(
                f"enable_pruning: expected attention_mask to have {shortened} columns, or {whole} as without pruning, "
                f"got {mask.shape[1]}"
            )
    if held.position_ids is None:  # the model numbers the tokens itself
        return inputs
    return inputs | {"position_ids": held.positions_from(start, count)}
