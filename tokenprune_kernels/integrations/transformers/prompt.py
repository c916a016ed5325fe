"""The whole prompt, restored in everything that the caller of ``generate`` sees."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor


def prepend_prompt(prompt: Tensor, new_tokens: Tensor) -> Tensor:
    """Puts the prompt of each sequence, a row of ``[B, L]``, in front of its new tokens ``[B * sequences, new]``."""
    prompts = prompt.to(new_tokens.device).repeat_interleave(len(new_tokens) // len(prompt), dim=0)
    return torch.cat([prompts, new_tokens], dim=1)


def with_whole_prompt(options: Mapping[str, Any], prompt: Tensor, length: int, copies: int) -> dict[str, Any]:
    """Wraps the options of ``generate`` that read token ids, so that each reads the whole prompt.

    Args:
        options: what ``generate`` was called with.
        prompt: the caller's prompt, ``[B, L]``.
        length: of the shortened prompt.
        copies: how many row numbers ``prefix_allowed_tokens_fn`` gets for each prompt. Beams of a prompt share one;
            sampled sequences have one each.

    Returns:
        The wrapped options, without the others.
    """
    wrapped: dict[str, Any] = {}
    for name in ("stopping_criteria", "logits_processor"):
        if options.get(name):
            wrapped[name] = type(options[name])(_with_prompt(callback, prompt, length) for callback in options[name])
    allowed = options.get("prefix_allowed_tokens_fn")
    if allowed is not None:
        wrapped["prefix_allowed_tokens_fn"] = lambda number, input_ids: allowed(
            number, torch.cat([prompt[number // copies].to(input_ids.device), input_ids[length:]])
        )
    if options.get("streamer") is not None:
        wrapped["streamer"] = _Streamer(options["streamer"], prompt)
    return wrapped


def _with_prompt(callback: Callable[..., Any], prompt: Tensor, length: int) -> Callable[..., Any]:
    def call(input_ids: Tensor, *args: Any, **kwargs: Any) -> Any:
        return callback(prepend_prompt(prompt, input_ids[:, length:]), *args, **kwargs)

    return call


class _Streamer:
    """Passes tokens on, and the whole prompt in place of the shortened one, which comes first."""

    def __init__(self, streamer: Any, prompt: Tensor) -> None:
        self._streamer = streamer
        self._prompt: Tensor | None = prompt

    def put(self, value: Tensor) -> None:
        if self._prompt is not None:
            value, self._prompt = self._prompt.cpu(), None
        self._streamer.put(value)

    def end(self) -> None:
        self._streamer.end()
