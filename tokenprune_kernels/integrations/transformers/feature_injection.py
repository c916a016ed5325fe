"""The kept features as encoder outputs, which a model takes in place of images and videos."""

from __future__ import annotations

import copy
import dataclasses
import importlib
from collections import UserDict
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .conversation import Conversation
from .family import Features, has_pixels
from .sequences import cached_length


class KeptFeatures:
    """The features of the kept tokens of the images, or of the videos, of a batch.

    Features are in one group per prompt. Beam search repeats encoder outputs prompt by prompt, and it tells where a
    prompt's features end from the lengths of these groups and the number of placeholders in the prompt.
    """

    def __init__(self, features: Features, kept: Tensor, placeholders: Tensor) -> None:
        """Drops the features of the other tokens.

        Args:
            features: what the encoder made.
            kept: bool ``[sum of n_i]``, which tokens stay.
            placeholders: bool ``[B, L']``, their places in the shortened prompts.
        """
        beam_groups = placeholders.sum(-1).tolist()
        self._tokens = list(features.tokens[kept].split(beam_groups))
        self._deepstack = [list(layer[kept].split(beam_groups)) for layer in features.deepstack]
        # By name, so that torch.load takes saved features with weights_only.
        self._output_type = (features.output_type.__module__, features.output_type.__qualname__)
        self._packed = features.packed

    def encoder_output(self) -> Any:
        """Returns a new output of the class that the model's own encoder returns."""
        module, name = self._output_type
        if not module.startswith("transformers."):
            raise ValueError(f"PrunedInputs: expected encoder outputs of transformers, got {module}.{name}")
        output = getattr(importlib.import_module(module), name)()
        output["pooler_output"] = torch.cat(self._tokens).unsqueeze(1) if self._packed else list(self._tokens)
        if self._deepstack:
            output["deepstack_features"] = [list(layer) for layer in self._deepstack]
        return output


class EncoderOutputs(dict[str, Any]):
    """The encoder output of each modality, with ``to`` as tensors have it; and what the prompt was before pruning."""

    conversation: Conversation | None = None

    def to(self, *args: Any, **kwargs: Any) -> EncoderOutputs:
        """Moves the features, as ``PrunedInputs.to`` does."""
        for output in self.values():
            for name, value in list(output.items()):
                output[name] = _moved(value, args, kwargs)
        return self


class PrunedInputs(UserDict[str, Any]):
    """The inputs of a model after pruning; what ``prune_inputs`` returns.

    A mapping from argument names to values, for ``model(**pruned)`` and ``model.generate(**pruned)``. As in what a
    processor returns, the values are attributes too (``pruned.input_ids``), and ``pruned.to(...)`` and
    ``pruned.pin_memory()`` move them. The images and videos are in ``pruned["mm_encoder_outputs"]``, a dict with the
    encoder output of each modality, in place of ``pixel_values`` and ``pixel_values_videos``. ``generate`` changes
    encoder outputs in place, so each access builds new ones: the same pruned inputs are good for any number of calls.
    ``dict(pruned)`` builds them once, and is good for one call of ``generate``.

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
        super().__init__(data, **extra)

    def __getitem__(self, name: str) -> Any:
        value = super().__getitem__(name)
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

    def to(self, *args: Any, **kwargs: Any) -> PrunedInputs:
        """Moves all tensors to a device, or floating ones to a dtype, as a processor's output does.

        Args:
            args: those of ``torch.Tensor.to``.
            kwargs: likewise.

        Returns:
            The same object.
        """
        self._change(lambda value: _moved(value, args, kwargs))
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
        self._change(lambda value: _mapped(value, Tensor.pin_memory))
        return self

    def next_turn(self, output: Any, inputs: Any) -> PrunedInputs:
        """Joins what a model answered to these inputs and the next turn of the conversation.

        Args:
            output: what ``generate`` returned on these inputs with ``return_dict_in_generate=True``, one sequence for
                each prompt. Its cache is used again.
            inputs: what the processor made of the new text alone, and of new images or videos; ``input_ids``
                ``[B, n]``, ``attention_mask`` and pixel values. Nothing of the earlier turns.

        Returns:
            The inputs of the next call, for ``generate``; with pixel values, for ``prune_inputs`` first.

        Raises:
            ValueError: unless the output belongs to these inputs and has a cache.

        Example:
            >>> first = prune_inputs(model, inputs, keep_ratio=0.1)  # doctest: +SKIP
            >>> output = model.generate(**first, return_dict_in_generate=True)  # doctest: +SKIP
            >>> second = prune_inputs(model, first.next_turn(output, new), keep_ratio=0.1)  # doctest: +SKIP
            >>> output = model.generate(**second, return_dict_in_generate=True)  # doctest: +SKIP
        """
        if self.conversation is None:
            raise ValueError("next_turn: expected inputs that prune_inputs returned, got others")
        cache = getattr(output, "past_key_values", None)
        length = cached_length(cache)
        if length == 0:
            raise ValueError(
                "next_turn: expected the output of generate with return_dict_in_generate=True and a cache, got "
                f"{type(output).__name__} without past_key_values"
            )
        held = self.conversation.after("next_turn", output.sequences)
        columns = held.input_ids.shape[1]
        if not columns - held.answered <= length <= columns:
            raise ValueError(
                f"next_turn: expected a cache of {columns - held.answered} to {columns} tokens, got {length}: it has "
                "gone on already; to go on from one output twice, pass a copy of it"
            )
        joined = PrunedInputs({**inputs, "past_key_values": cache})
        joined.conversation = held
        return joined if has_pixels(joined.data) else held.joined(joined)

    def _change(self, change: Callable[[Any], Any]) -> None:
        for name, value in vars(self).items():
            setattr(self, name, change(value))


def _moved(value: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """A value whose tensors are moved to a device, and to a dtype where they are floating."""
    dtypes = [each for each in (*args, kwargs.get("dtype")) if isinstance(each, torch.dtype)]

    def move(tensor: Tensor) -> Tensor:
        if dtypes and not tensor.is_floating_point():
            others = [each for each in args if not isinstance(each, torch.dtype)]
            named = {name: each for name, each in kwargs.items() if name != "dtype"}
            return tensor.to(*others, **named) if others or named else tensor
        return tensor.to(*args, **kwargs)

    return _mapped(value, move)


def _mapped(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """A value with every tensor in it changed."""
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, KeptFeatures):
        mapped = copy.copy(value)
        mapped._tokens = _mapped(value._tokens, change)
        mapped._deepstack = _mapped(value._deepstack, change)
        return mapped
    if isinstance(value, Conversation):
        tensors: dict[str, Any] = {name: change(each) for name, each in vars(value).items() if isinstance(each, Tensor)}
        return dataclasses.replace(value, **tensors)
    if isinstance(value, list | tuple):
        return type(value)(_mapped(each, change) for each in value)
    if type(value) is dict:
        return {name: _mapped(each, change) for name, each in value.items()}
    return value


torch.serialization.add_safe_globals([PrunedInputs, KeptFeatures, Conversation])
