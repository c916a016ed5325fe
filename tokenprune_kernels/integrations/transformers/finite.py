"""A warning for tokens and weights that are not finite."""

from __future__ import annotations

import warnings
import weakref
from typing import Any

import torch
from torch import Tensor

from .family import Features

_warned: weakref.WeakSet[Any] = weakref.WeakSet()


def warn_of_non_finite(
    model: Any, features: list[Features], tokens: Tensor, argument: str | None, weight: Tensor | None
) -> None:
    """Warns, once for a model, of NaN and infinite rows: by contract they come last, lowest index first.

    Args:
        model: the model.
        features: the tokens of the images, and of the videos.
        tokens: the same in one tensor, ``[T, D]``.
        argument: the name of the weight.
        weight: ``[T]``, if the method has one.
    """
    # A row whose sum of squares overflows is not finite either.
    found = [("get_{}_features", ~tokens.float().square().sum(-1).isfinite())]
    if weight is not None:
        found.append((f"{argument}", ~weight.isfinite()))
    if not torch.stack([wrong.any() for _, wrong in found]).any() or model in _warned:
        return
    _warned.add(model)
    source, wrong = next((source, wrong) for source, wrong in found if wrong.any())
    number = 0
    for each in features:
        rows = wrong[: len(each.tokens)].split(each.counts)
        wrong = wrong[len(each.tokens) :]
        for item in rows:
            if item.any():
                warnings.warn(
                    f"prune_inputs: expected finite values from {source.format(each.modality)} of "
                    f"{type(model).__name__}, got NaN or infinity in {int(item.sum())} of {len(item)} tokens of image "
                    f"or video {number}; such tokens are kept last, lowest index first",
                    RuntimeWarning,
                    stacklevel=2,
                )
                return
            number += 1
