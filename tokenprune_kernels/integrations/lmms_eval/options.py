"""From the arguments of ``--model_args`` to the options of ``enable_pruning``."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ...arguments import exact_integer
from ...methods import METHODS

NONE, RANDOM, DOWNSAMPLE = "none", "random", "downsample"
OTHERS = (NONE, RANDOM, DOWNSAMPLE)
"""Baselines that are no method of this package."""


class RandomImportance:
    """Random numbers as the importance of tokens, so that the most important ones are a random choice.

    The same for every picture with as many tokens, whatever was asked before.
    """

    def __init__(self, seed: int) -> None:
        self._seed = seed

    def __call__(self, tokens: Tensor) -> Tensor:
        """The importance of tokens ``[n, D]``, float32 ``[n]``."""
        generator = torch.Generator("cpu").manual_seed(self._seed)
        return torch.rand(len(tokens), generator=generator).to(tokens.device)


def pruning_options(
    method: str,
    k: int | None,
    keep_ratio: float | None,
    importance: str | None,
    relevance: str | None,
    lam: float | None,
    positions: str | None,
    seed: int,
) -> dict[str, Any] | None:
    """The options of ``enable_pruning``; None where the tokens stay as they are.

    Args:
        method: of this package, or one of ``OTHERS``.
        k: of ``enable_pruning``.
        keep_ratio: likewise.
        importance: likewise, by name.
        relevance: likewise.
        lam: likewise.
        positions: likewise.
        seed: of the random choice.

    Raises:
        ValueError: for an unknown method, or an argument that the method does not take.
    """
    if method not in METHODS and method not in OTHERS:
        raise ValueError(f"tokenprune: expected method to be one of {', '.join((*METHODS, *OTHERS))}, got {method!r}")
    given = {
        "k": k,
        "keep_ratio": keep_ratio,
        "importance": importance,
        "relevance": relevance,
        "lam": lam,
        "positions": positions,
    }
    given = {name: value for name, value in given.items() if value is not None}
    if method in METHODS:
        return {"method": method, **given}
    allowed = {NONE: (), RANDOM: ("k", "keep_ratio", "positions"), DOWNSAMPLE: ("keep_ratio",)}[method]
    surplus = [name for name in given if name not in allowed]
    if surplus:
        raise ValueError(f"tokenprune: expected no {surplus[0]} with method {method!r}, got {given[surplus[0]]}")
    if method != RANDOM:
        return None
    seed = exact_integer("tokenprune", "seed", seed)
    return {"method": "idpruner", "importance": RandomImportance(seed), "lam": 1.0, **given}


def downsampled_size(width: int, height: int, keep_ratio: float | None) -> tuple[int, int]:
    """The size of a picture with a share of the pixels, in the same proportions.

    Raises:
        ValueError: unless the share is in (0, 1].
    """
    if keep_ratio is None or not 0 < keep_ratio <= 1:
        raise ValueError(f"tokenprune: expected keep_ratio in (0, 1] with method 'downsample', got {keep_ratio}")
    scale = keep_ratio**0.5
    return max(1, round(scale * width)), max(1, round(scale * height))
