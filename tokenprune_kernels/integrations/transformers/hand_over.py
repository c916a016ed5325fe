"""Giving pruned features to a model in place of its images and videos.

Models of transformers >= 5.19 take an encoder's output as ``mm_encoder_outputs``. For older ones the features stand
behind a tensor in the place of the pixel values, and a wrap of the inner model's ``get_*_features`` answers it with
them; the wrap lasts as long as such a tensor does.
"""

from __future__ import annotations

import functools
import inspect
import weakref
from collections import UserDict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .family import PIXELS, Family, Layout


def takes_encoder_outputs(model: Any) -> bool:
    """Whether the model has an interface of its own for features that are made already."""
    return "mm_encoder_outputs" in inspect.signature(model.forward).parameters


@dataclass(frozen=True)
class Pruned:
    """What is left of the images, or of the videos, of a batch.

    Attributes:
        modality: ``"image"`` or ``"video"``.
        tokens: the kept tokens, ``[K, D]``.
        deepstack: their features for each deepstack layer, ``[K, D]``.
        placeholders: bool ``[B, L']``, where they go.
        layout: how the language model takes them.
    """

    modality: str
    tokens: Tensor
    deepstack: list[Tensor]
    placeholders: Tensor
    layout: Layout


def hand_over(model: Any, family: Family, pruned: list[Pruned]) -> dict[str, Any]:
    """What of ``PrunedInputs`` brings pruned features to the language model."""
    if takes_encoder_outputs(model):
        groups_of = {each.modality: _Groups(each, each.placeholders.sum(-1).tolist()) for each in pruned}
        return {"mm_encoder_outputs": groups_of}
    inputs: dict[str, Any] = {}
    for each in pruned:
        sizes, grids = family.repeated(each.modality, each.placeholders)
        groups = _Groups(each, sizes)
        inputs |= grids | {PIXELS[each.modality]: HandedOver.numbering(groups, each.placeholders.device)}
        _wrap(model.model, f"get_{each.modality}_features", groups)
    return inputs


class _Groups:
    """Pruned features in the groups that `generate` repeats for beams and for several sequences."""

    def __init__(self, pruned: Pruned, sizes: list[int]) -> None:
        self.count = len(sizes)
        self._layout = pruned.layout
        self._tokens = pruned.tokens.split(sizes)
        self._deepstack = [layer.split(sizes) for layer in pruned.deepstack]

    def output(self, numbers: list[int] | None = None) -> Any:
        """A new encoder's output for the groups with these numbers, by default all."""
        numbers = list(range(self.count)) if numbers is None else numbers
        return self._layout.output(
            [self._tokens[number] for number in numbers],
            [[layer[number] for number in numbers] for layer in self._deepstack],
        )


class PrunedInputs(UserDict[str, Any]):
    """Model inputs as a mapping.

    ``generate`` edits encoder outputs in place, so every look at ``mm_encoder_outputs`` makes new ones.
    """

    def __getitem__(self, name: str) -> Any:
        value = super().__getitem__(name)
        if isinstance(value, dict):
            return {key: each.output() if isinstance(each, _Groups) else each for key, each in value.items()}
        return value


class HandedOver(Tensor):
    """The numbers of groups of pruned features, int64 ``[groups]``, in the place of pixel values.

    What is made of them, such as their repetition for beams, refers to the same groups.
    """

    groups: _Groups

    @classmethod
    def numbering(cls, groups: _Groups, device: torch.device) -> HandedOver:
        """The numbers of all groups, in order."""
        numbers = torch.arange(groups.count, device=device).as_subclass(cls)
        numbers.groups = groups
        return numbers

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = super().__torch_function__(func, types, args, kwargs)
        source = next(_numbers_in([*args, *kwargs.values()]))
        for numbers in _numbers_in([result]):
            numbers.groups = source.groups
        return result


def _numbers_in(values: Iterable[Any]) -> Iterator[HandedOver]:
    for value in values:
        if isinstance(value, HandedOver):
            yield value
        elif isinstance(value, list | tuple):
            yield from _numbers_in(value)


class _Wrap:
    """Stands in for an encoder while handed-over numbers are alive: answers them, and passes pixel values on."""

    def __init__(self, inner: Any, name: str) -> None:
        functools.update_wrapper(self, getattr(inner, name))
        self._encoder = getattr(inner, name)
        self._before = {attribute: value for attribute, value in vars(inner).items() if attribute == name}
        self.alive = 0

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        for value in (*args, *kwargs.values()):
            if isinstance(value, HandedOver):
                return value.groups.output(value.tolist())
        return self._encoder(*args, **kwargs)

    def release(self, inner: Any, name: str) -> None:
        self.alive -= 1
        if self.alive == 0 and vars(inner).get(name) is self:
            delattr(inner, name)
            vars(inner).update(self._before)


def _wrap(inner: Any, name: str, groups: _Groups) -> None:
    """Has the encoder answer numbers of the groups, for as long as the groups live."""
    if not isinstance(vars(inner).get(name), _Wrap):
        setattr(inner, name, _Wrap(inner, name))
    wrap = vars(inner)[name]
    wrap.alive += 1
    weakref.finalize(groups, wrap.release, inner, name).atexit = False
