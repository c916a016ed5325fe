"""What a cache holds of a conversation, and how the next turn goes on from there."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from .families import family_of
from .family import placeholder_ids
from .sequences import FILL, cached_length, next_positions, positions_of


@dataclass(frozen=True)
class Conversation:
    """What a model has read so far.

    Attributes:
        input_ids: as the model read them, ``[B, P]``.
        attention_mask: of these, ``[B, P]``.
        position_ids: of these, ``[..., B, P]``; None where the model numbers them itself.
        next_positions: the position of the token after them, ``[B, 1]``.
        whole: the same without pruning, ``[B, L]``.
        padding: the padding token.
        stops: the tokens that end an answer.
        generated: how many of the last columns were generated; those are the same in both.
        first_columns: how many of the first columns are the prompt that the conversation began with.
        placeholders: the tokens that stand for images and videos.
    """

    input_ids: Tensor
    attention_mask: Tensor
    position_ids: Tensor | None
    next_positions: Tensor
    whole: Tensor
    padding: int
    stops: tuple[int, ...]
    generated: int = 0
    first_columns: int = 0
    placeholders: tuple[int, ...] = ()

    def after(self, name: str, sequences: Tensor) -> Conversation:
        """The conversation after an answer.

        Args:
            name: the function that was called, for errors.
            sequences: as ``generate`` returned them, ``[B, P + new]``.
        """
        rows, columns = self.input_ids.shape
        sequences = sequences.to(self.input_ids.device)
        if len(sequences) != rows or not torch.equal(sequences[:, :columns], self.input_ids):
            raise ValueError(
                f"{name}: expected one sequence for each of the {rows} prompts, beginning with it, got others"
            )
        answer = sequences[:, columns:]
        mask = (~self._padding_after(answer)).to(self.attention_mask.dtype)
        joined = self._extended(answer, mask, None)
        return replace(joined, whole=torch.cat([self.whole, answer], 1), generated=answer.shape[1])

    def _padding_after(self, answer: Tensor) -> Tensor:
        """Which columns of answers ``[B, new]`` are the padding after the end of a shorter one, bool of that shape.

        ``generate`` may pad with a stop too. A stop that follows no other one ends an answer.
        """
        stops = torch.tensor(self.stops, dtype=answer.dtype, device=answer.device)
        last = answer[:, -1:]
        ends = torch.isin(last, stops)
        padding = (answer == last).flip(-1).long().cumprod(-1).flip(-1).bool()
        padding &= ends | (last == self.padding)
        after_a_stop = torch.isin(answer.roll(1, -1), stops)
        after_a_stop[:, 0] = False
        padding &= after_a_stop | ~ends
        # The longest answer reaches the last column, whatever its last tokens are.
        length = padding.sum(-1, keepdim=True)
        return padding & (length > length.amin())

    def cropped(self, columns: int) -> Conversation:
        """The conversation without the last of its generated tokens, down to a number of columns."""
        surplus = self.input_ids.shape[1] - columns
        position_ids = self.position_ids
        return replace(
            self,
            input_ids=self.input_ids[:, :columns],
            attention_mask=self.attention_mask[:, :columns],
            position_ids=None if position_ids is None else position_ids[..., :columns],
            next_positions=self.next_positions - self.attention_mask[:, columns:].long().sum(-1, keepdim=True),
            whole=self.whole[:, : self.whole.shape[1] - surplus],
            generated=self.generated - surplus,
        )

    def positions_after(self, mask: Tensor) -> Tensor:
        """The positions of the tokens after the conversation, for a forward pass.

        Args:
            mask: of these tokens, ``[B, n]``.

        Returns:
            int64 ``[B, n]``, or ``[3, B, n]`` where a token has (t, h, w).
        """
        numbers = self.next_positions + positions_of(mask).to(self.next_positions.device)
        spatial = self.position_ids is not None and self.position_ids.dim() > 2
        return numbers.expand(3, *numbers.shape) if spatial else numbers

    def has_placeholders(self) -> bool:
        """Whether there are images or videos in it."""
        token_ids = torch.tensor(self.placeholders, dtype=self.input_ids.dtype, device=self.input_ids.device)
        return bool(torch.isin(self.input_ids, token_ids).any())

    def joined(self, new: Any) -> Any:
        """The next turn after what came before, for ``generate``.

        Args:
            new: ``PrunedInputs`` of the next turn alone. Changed, and returned.
        """
        ids = new["input_ids"].to(self.input_ids.device)
        mask = new.data.get("attention_mask")
        mask = torch.ones_like(ids) if mask is None else mask.to(ids.device)
        of_turn = new.conversation if new.conversation is not self else None
        joined = self._extended(ids, mask, new.data.get("position_ids"), of_turn)
        whole = ids if of_turn is None else of_turn.whole
        new.conversation = replace(joined, whole=torch.cat([self.whole, whole.to(ids.device)], 1), generated=0)
        for name in FILL.keys() & new.data.keys():
            before = torch.full_like(self.input_ids, FILL[name], dtype=new[name].dtype)
            new[name] = torch.cat([before, new[name].to(before.device)], 1)
        new["input_ids"], new["attention_mask"] = joined.input_ids, joined.attention_mask
        if joined.position_ids is not None:
            new["position_ids"] = joined.position_ids
        if new.kept_columns is not None:
            first = torch.full_like(self.input_ids, -1)
            shifted = torch.where(new.kept_columns < 0, -1, new.kept_columns + self.whole.shape[1])
            new.kept_columns = torch.cat([first, shifted.to(first.device)], 1)
        return new

    def _extended(
        self, ids: Tensor, mask: Tensor, position_ids: Tensor | None, of_turn: Conversation | None = None
    ) -> Conversation:
        """With further columns, whose positions count from 0 if they are given."""
        attention_mask = torch.cat([self.attention_mask, mask.to(self.attention_mask.dtype)], 1)
        length = mask.long().sum(-1, keepdim=True) if of_turn is None else of_turn.next_positions.to(mask.device)
        if self.position_ids is not None or position_ids is not None:
            old = positions_of(self.attention_mask) if self.position_ids is None else self.position_ids
            new = positions_of(mask) if position_ids is None else position_ids.to(ids.device)
            rows = max((old, new), key=Tensor.dim).shape[:-2]
            new = (new + self.next_positions).expand(*rows, *ids.shape)
            position_ids = torch.cat([old.expand(*rows, *self.input_ids.shape), new], -1)
            if rows == (4,):
                position_ids = torch.cat([positions_of(attention_mask).unsqueeze(0), position_ids[1:]])
        return replace(
            self,
            input_ids=torch.cat([self.input_ids, ids], 1),
            attention_mask=attention_mask,
            position_ids=position_ids,
            next_positions=self.next_positions + length,
        )


def begin(
    model: Any, inputs: Mapping[str, Any], whole: Tensor, positions: Tensor | None, next_positions: Tensor
) -> Conversation:
    """The conversation that a prompt begins.

    Args:
        model: the model.
        inputs: its inputs after pruning, with ``attention_mask``.
        whole: ``input_ids`` before.
        positions: ``position_ids`` after, None where the model numbers the tokens itself.
        next_positions: see ``Conversation``.
    """
    stops = stop_ids(model)
    return Conversation(
        inputs["input_ids"],
        inputs["attention_mask"],
        positions,
        next_positions,
        whole,
        padding_id(model, otherwise=stops[0] if stops else 0),  # as generate pads
        stops,
        first_columns=inputs["input_ids"].shape[1],
        placeholders=placeholder_ids(model, family_of(model)),
    )


def begin_text(model: Any, inputs: Mapping[str, Any], *, masked: bool = True) -> Conversation | None:
    """The conversation that a prompt of text begins; None where it goes on, or has no ``input_ids``.

    Args:
        model: the model.
        inputs: its inputs.
        masked: whether the model leaves masked tokens out when it numbers the others, as ``generate`` does and a
            forward pass does not.
    """
    ids = inputs.get("input_ids")
    if not isinstance(ids, Tensor) or ids.dim() != 2 or cached_length(inputs.get("past_key_values")) > 0:
        return None
    mask = inputs.get("attention_mask")
    if mask is None or mask.shape != ids.shape:
        mask = torch.ones_like(ids)
    position_ids = inputs.get("position_ids")
    numbers = positions_of(mask if masked else torch.ones_like(mask)) if position_ids is None else position_ids
    following = next_positions(numbers, mask if masked else torch.ones_like(mask))
    rows = family_of(model).position_rows
    if position_ids is None and rows:
        # Left to itself, the model would number further turns by an offset that its last call has left on it.
        position_ids = numbers.expand(rows, *ids.shape)
    return begin(model, {"input_ids": ids, "attention_mask": mask}, ids, position_ids, following)


def stop_ids(model: Any) -> tuple[int, ...]:
    """The tokens that end an answer."""
    stops = getattr(model.generation_config, "eos_token_id", None)
    return tuple(stops) if isinstance(stops, Iterable) else () if stops is None else (stops,)


def padding_id(model: Any, otherwise: int = 0) -> int:
    """The padding token of a model; another where it has none."""
    configs = (model.generation_config, model.config, model.config.get_text_config())
    token_ids = (getattr(config, "pad_token_id", None) for config in configs)
    return next((token_id for token_id in token_ids if token_id is not None and token_id >= 0), otherwise)
