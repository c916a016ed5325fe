"""The prompt as the caller of ``generate`` knows it, in place of the shortened one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor


def behind_prompt(prompt: Tensor, new_tokens: Tensor) -> Tensor:
    """The new tokens ``[B * sequences, new]``, each behind the prompt ``[B, L]`` that it continues."""
    prompts = prompt.to(new_tokens.device).repeat_interleave(len(new_tokens) // len(prompt), dim=0)
    return torch.cat([prompts, new_tokens], dim=1)


def with_whole_prompt(options: Mapping[str, Any], prompt: Tensor, length: int, copies: int) -> dict[str, Any]:
    """Those of the options of ``generate`` that look at token ids, each made to see the whole prompt.

    Args:
        options: what ``generate`` was called with.
        prompt: the caller's prompt, ``[B, L]``.
        length: of the shortened prompt.
        copies: how often each row of the prompt is numbered, beams of one row apart.
    """
    seeing: dict[str, Any] = {}
    for name in ("stopping_criteria", "logits_processor"):
        if options.get(name):
            seeing[name] = type(options[name])(_seeing(callback, prompt, length) for callback in options[name])
    allowed = options.get("prefix_allowed_tokens_fn")
    if allowed is not None:
        seeing["prefix_allowed_tokens_fn"] = lambda number, input_ids: allowed(
            number, torch.cat([prompt[number // copies].to(input_ids.device), input_ids[length:]])
        )
    if options.get("streamer") is not None:
        seeing["streamer"] = _Streamer(options["streamer"], prompt)
    return seeing


def _seeing(callback: Callable[..., Any], prompt: Tensor, length: int) -> Callable[..., Any]:
    def call(input_ids: Tensor, *args: Any, **kwargs: Any) -> Any:
        return callback(behind_prompt(prompt, input_ids[:, length:]), *args, **kwargs)

    return call


class _Streamer:
    """Passes tokens on; the prompt, which comes first, as the caller knows it."""

    def __init__(self, streamer: Any, prompt: Tensor) -> None:
        self._streamer = streamer
        self._prompt: Tensor | None = prompt

    def put(self, value: Tensor) -> None:
        if self._prompt is not None:
            value, self._prompt = self._prompt.cpu(), None
        self._streamer.put(value)

    def end(self) -> None:
        self._streamer.end()
