"""What is timed: an input, a method and a dtype; the most telling cases first."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from tokenprune_kernels import importance

from . import inputs
from .inputs import Tokens

LAM = 0.5
DTYPES = (torch.bfloat16, torch.float32)


@dataclass(frozen=True)
class Case:
    """A method on tokens of a dtype."""

    tokens: Tokens
    method: str
    dtype: torch.dtype

    @property
    def dtype_name(self) -> str:
        return str(self.dtype).removeprefix("torch.")

    def __str__(self) -> str:
        return f"{self.method} {self.tokens.name} {self.tokens.count} {self.dtype_name}"


@dataclass(frozen=True)
class Task:
    """The arguments of one call.

    Attributes:
        x: ``[..., N, D]``.
        k: rows to keep of each item.
        weight: float32 ``[..., N]``: the norms as importance, the cosine to ``query`` as relevance, the share of the
            largest norm as the DPP's relevance, None for DivPrune.
        query: ``[..., D]``, what MMR ranks for: the mean row.
    """

    method: str
    x: Tensor
    k: int
    weight: Tensor | None = None
    query: Tensor | None = None


def task(case: Case) -> Task:
    """The arguments of a case."""
    x, k = _tokens(case.tokens).to(case.dtype), case.tokens.k
    if case.method == "divprune":
        return Task(case.method, x, k)
    if case.method == "idpruner":
        return Task(case.method, x, k, importance.norm(x))
    if case.method == "dpp":
        norm = importance.norm(x)
        return Task(case.method, x, k, norm / norm.amax(dim=-1, keepdim=True))
    query = x.float().mean(dim=-2)
    return Task(case.method, x, k, F.cosine_similarity(x.float(), query.unsqueeze(-2), dim=-1), query)


@functools.lru_cache(maxsize=1)
def _tokens(tokens: Tokens) -> Tensor:
    return tokens.make()


def cases() -> list[Case]:
    """All of them; those of one input follow each other, and the long ones that tell least come last."""
    first, *others = inputs.PHOTOGRAPHS
    weighted = ("divprune", "idpruner")
    return [
        *_each(inputs.photograph(first, 24), (*weighted, "mmr", "dpp")),
        *(case for name in others for case in _each(inputs.photograph(name, 24), weighted)),
        *_each(inputs.noise(576), ("divprune",)),
        *(case for name in (first, others[0]) for case in _each(inputs.photograph(name, 54), weighted)),
        *_each(inputs.photograph(first, 54), ("dpp",)),
        *_each(inputs.noise(2_916), ("divprune", "dpp")),
        *_each(inputs.crops(), weighted),
        *_each(inputs.photograph(first, 80), weighted),
        *_each(inputs.noise(6_400), ("divprune",)),
        *_each(inputs.video(8), weighted),
        *_each(inputs.clustered(1_152), weighted),
        *_each(inputs.duplicates(1_152), weighted),
        *_each(inputs.photograph(others[0], 80), weighted),
        *_each(inputs.video(64), weighted, (torch.bfloat16,)),
    ]


def quick_cases() -> list[Case]:
    """One photograph and noise, both small."""
    return [
        *_each(inputs.photograph("astronaut", 24), ("divprune", "idpruner", "mmr", "dpp")),
        *_each(inputs.noise(576), ("divprune",)),
    ]


def _each(tokens: Tokens, methods: Sequence[str], dtypes: Sequence[torch.dtype] = DTYPES) -> list[Case]:
    return [Case(tokens, *each) for each in itertools.product(methods, dtypes)]
