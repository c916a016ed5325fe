"""The inputs of a model after pruning, and how a conversation and a decoding loop go on from them."""

from __future__ import annotations

import copy
from collections import UserDict
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ...arguments import check_tensor
from .conversation import Conversation
from .family import has_pixels
from .feature_injection import EncoderOutputs, KeptFeatures, mapped, moved
from .new_turn import check_new_turn
from .sequences import cached_length, cached_rows, column_after_the_last


class PrunedInputs(UserDict[str, Any]):
    """The inputs of a model after pruning; what ``prune_inputs`` returns.

    A mapping from argument names to values, for ``model(**pruned)`` and ``model.generate(**pruned)``. As in what a
    processor returns, the values are attributes too (``pruned.input_ids``), and ``pruned.to(...)`` and
    ``pruned.pin_memory()`` move them. The images and videos are in ``pruned["mm_encoder_outputs"]``, a dict with the
    encoder output of each modality, in place of ``pixel_values`` and ``pixel_values_videos``. ``generate`` changes
    encoder outputs in place, so each access builds new ones: the same pruned inputs are good for any number of calls.
    ``dict(pruned)`` builds them once, and is good for one call of ``generate``. A cache among the inputs goes on with
    every call, so such inputs are good for one call; ``copy.deepcopy`` makes inputs for another.

    Attributes:
        kept_indices: which tokens were kept of each image, then of each video: int64 ``[k_i]``, ascending.
        grids: (time, rows, columns) of the tokens of each image, then of each video, which the kept indices number
            row by row; None where they form no single grid, as with newlines or several tiles.
        kept_columns: int64 ``[B, L']``, the column of the given prompt that each column of the shortened one was; -1
            in padding.

    Example:
        >>> pruned = PrunedInputs({"input_ids": torch.tensor([[1, 2, 3]])})
        >>> list(pruned), pruned.input_ids.shape
        (['input_ids'], torch.Size([1, 3]))
    """

    kept_indices: list[Tensor]
    grids: list[tuple[int, ...] | None]
    kept_columns: Tensor | None
    conversation: Conversation | None

    def __init__(self, data: Any = None, **extra: Any) -> None:
        self.kept_indices, self.grids, self.kept_columns, self.conversation = [], [], None, None
        self._cached = 0  # how many tokens past_key_values held when it became one of the inputs
        super().__init__(data, **extra)

    def __setitem__(self, name: str, value: Any) -> None:
        super().__setitem__(name, value)
        if name == "past_key_values":
            self._cached = cached_length(value)

    def __getitem__(self, name: str) -> Any:
        value = super().__getitem__(name)
        if name == "past_key_values":
            if self.conversation is not None and has_pixels(self.data):
                raise ValueError("PrunedInputs: expected a call of prune_inputs for the new pixel values, got none")
            self.check_cache("PrunedInputs")
        if isinstance(value, dict):
            outputs = EncoderOutputs(
                {key: each.encoder_output() if isinstance(each, KeptFeatures) else each for key, each in value.items()}
            )
            outputs.conversation = self.conversation
            return outputs
        return value

    def __getattr__(self, name: str) -> Any:
        if name in vars(self).get("data", ()):
            return self[name]
        raise AttributeError(f"PrunedInputs: expected one of {', '.join(vars(self).get('data', ()))}, got {name!r}")

    def check_cache(self, name: str) -> None:
        """Raises if a model has gone on with the cache since it became one of the inputs.

        Args:
            name: the function that was called, for the error.
        """
        length = cached_length(self.data.get("past_key_values"))
        if length != self._cached:
            raise ValueError(
                f"{name}: expected past_key_values of {self._cached} tokens, as when these inputs were made, got "
                f"{length}: it has gone on already; for several calls, make each a copy.deepcopy of the inputs first"
            )

    def to(self, *args: Any, **kwargs: Any) -> PrunedInputs:
        """Moves all tensors to a device, or floating ones to a dtype, as a processor's output does.

        Args:
            args: those of ``torch.Tensor.to``.
            kwargs: likewise.

        Returns:
            The same object.
        """
        self._change(lambda value: moved(value, args, kwargs))
        return self

    def copy(self) -> PrunedInputs:
        """Returns the same inputs in a mapping of its own."""
        return copy.copy(self)

    def __or__(self, other: Any) -> PrunedInputs:  # type: ignore[override]
        joined = self.copy()
        joined.update(other)
        return joined

    def pin_memory(self) -> PrunedInputs:
        """Copies all tensors to pinned memory; the data loader's ``pin_memory`` calls it. Returns the same object."""
        self._change(lambda value: mapped(value, Tensor.pin_memory))
        return self

    def next_turn(self, output: Any, inputs: Any) -> PrunedInputs:
        """Joins a model's answer to these inputs and the next turn of the conversation.

        Args:
            output: what ``generate`` returned on these inputs with ``return_dict_in_generate=True``, one sequence for
                each prompt. Its cache is used again.
            inputs: what the processor makes of the new text alone, and of new images or videos: ``input_ids``
                ``[B, n]``, ``attention_mask`` and pixel values. Nothing of the earlier turns.

        Returns:
            The inputs of the next call, for ``generate``; with pixel values, for ``prune_inputs`` first.

        Raises:
            ValueError, TypeError: unless the output belongs to these inputs and has a cache, and the inputs are those
                of a new turn alone, with pixel values for its placeholders.

        Example:
            >>> first = prune_inputs(model, inputs, keep_ratio=0.1)  # doctest: +SKIP
            >>> output = model.generate(**first, return_dict_in_generate=True)  # doctest: +SKIP
            >>> second = prune_inputs(model, first.next_turn(output, new), keep_ratio=0.1)  # doctest: +SKIP
            >>> output = model.generate(**second, return_dict_in_generate=True)  # doctest: +SKIP
        """
        conversation = self._noted("next_turn")
        cache, sequences = (getattr(output, name, None) for name in ("past_key_values", "sequences"))
        length = cached_length(cache)
        if length == 0 or sequences is None:
            raise ValueError(
                "next_turn: expected the output of generate with return_dict_in_generate=True and a cache, got "
                f"{type(output).__name__} without {'sequences' if length else 'past_key_values'}"
            )
        check_new_turn(conversation, inputs)
        held = conversation.after("next_turn", sequences)
        _check_rows("next_turn", cache, len(held.input_ids))
        columns = held.input_ids.shape[1]
        if not columns - held.generated <= length <= columns:
            raise ValueError(
                f"next_turn: expected a cache of {columns - held.generated} to {columns} tokens, got {length}: it has "
                "gone on already; to go on from one output twice, pass a copy of it"
            )
        joined = PrunedInputs({**inputs, "past_key_values": cache})
        joined.conversation = held
        return joined if has_pixels(joined.data) else held.joined(joined)

    def next_step(self, output: Any, input_ids: Tensor) -> PrunedInputs:
        """Makes the inputs of the next forward pass, in a decoding loop of your own.

        Args:
            output: what the model returned for these inputs, or for what ``next_step`` made of them last, with its
                cache. That goes on to hold the new tokens too.
            input_ids: the new tokens of each row, int64 ``[B, n]``: one that you chose, or several.

        Returns:
            ``input_ids``, the ``attention_mask`` of cache and new tokens, ``position_ids`` and ``past_key_values``.

        Raises:
            ValueError, TypeError: unless the output is that of a forward pass and has a cache as long as these inputs
                or longer, and ``input_ids`` has a row for each of theirs; and for inputs of a further turn, which are
                for ``generate``.

        Example:
            >>> call = pruned = prune_inputs(model, inputs, keep_ratio=0.1)  # doctest: +SKIP
            >>> for _ in range(64):  # doctest: +SKIP
            ...     output = model(**call, use_cache=True)
            ...     token = output.logits[:, -1:].argmax(-1)
            ...     call = pruned.next_step(output, token)
        """
        conversation = self._noted("next_step")
        rows, columns = conversation.input_ids.shape
        if columns > conversation.first_columns:
            raise ValueError("next_step: expected inputs of a first turn, got those of a further one (call generate)")
        check_tensor("next_step", "input_ids", input_ids)
        if input_ids.dim() != 2 or len(input_ids) != rows or input_ids.shape[1] == 0:
            raise ValueError(
                f"next_step: expected input_ids of shape [{rows}, n], new tokens alone, got {list(input_ids.shape)}"
            )
        cache = getattr(output, "past_key_values", None)
        length, count = cached_length(cache), input_ids.shape[1]
        if hasattr(output, "sequences"):
            raise ValueError("next_step: expected the output of a forward pass, got that of generate (call next_turn)")
        if length < columns:
            raise ValueError(
                f"next_step: expected output to have a cache of at least {columns} tokens, those of these inputs, got "
                f"{length}"
            )
        _check_rows("next_step", cache, rows)
        logits = getattr(output, "logits", None)
        if isinstance(logits, Tensor) and columns != logits.shape[1] == length:
            raise ValueError(f"next_step: expected the output of these {columns} tokens, got that of {length} others")
        mask = conversation.attention_mask
        after = mask.new_ones(rows, length - columns + count)
        if "position_ids" not in self.data:
            # A forward pass without positions numbers the columns, masked ones too.
            conversation = replace(conversation, next_positions=column_after_the_last(mask))
        step = {
            "input_ids": input_ids,
            "attention_mask": torch.cat([mask, after], 1),
            "position_ids": conversation.positions_after(after)[..., -count:],
        }
        return PrunedInputs({name: each.to(input_ids.device) for name, each in step.items()}, past_key_values=cache)

    def _noted(self, name: str) -> Conversation:
        if self.conversation is None:
            raise ValueError(f"{name}: expected inputs that prune_inputs returned, got others")
        for key in ("attention_mask", "position_ids"):
            value, noted = self.data.get(key), getattr(self.conversation, key)
            if value is None or value is noted:
                continue
            if noted is None or not torch.equal(value.to(noted), noted):
                raise ValueError(f"{name}: expected inputs as prune_inputs returned them, got another {key}")
        return self.conversation

    def _change(self, change: Callable[[Any], Any]) -> None:
        for name, value in vars(self).items():
            setattr(self, name, change(value))


def _check_rows(name: str, cache: Any, rows: int) -> None:
    found = cached_rows(cache)
    if found not in (None, rows):
        raise ValueError(f"{name}: expected a cache of {rows} rows, one for each prompt and without beams, got {found}")


torch.serialization.add_safe_globals([PrunedInputs])
