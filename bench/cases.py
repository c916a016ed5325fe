"""What is timed: an input, a method and a dtype; the most telling cases first."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from bench import inputs
from bench.inputs import BATCH, PACKED, Tokens
from tokenprune_kernels import importance

LAM = 0.5
DTYPES = (torch.bfloat16, torch.float32)
TOWER_DIMENSIONS = 384


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
        return f"{self.method} {self.tokens.name} {self.tokens.size} {self.dtype_name}"


@dataclass(frozen=True)
class Task:
    """The arguments of one call.

    Attributes:
        x: ``[..., N, D]``.
        weight: float32 ``[..., N]``: the norms as importance, the cosine to ``query`` as relevance, the share of the
            largest norm as the DPP's relevance, None for DivPrune.
        query: ``[..., D]``, what MMR ranks for: the mean row.
    """

    method: str
    tokens: Tokens
    x: Tensor
    weight: Tensor | None = None
    query: Tensor | None = None

    @property
    def k(self) -> int:
        """That of the first item."""
        return self.tokens.ks[0]


def task(case: Case, device: str = "cpu") -> Task:
    """The arguments of a case."""
    x = _tokens(case.tokens, device).to(case.dtype)
    if case.method == "divprune":
        return Task(case.method, case.tokens, x)
    if case.method == "idpruner":
        return Task(case.method, case.tokens, x, importance.norm(x))
    if case.method == "dpp":
        norm = importance.norm(x)
        return Task(case.method, case.tokens, x, norm / norm.amax(dim=-1, keepdim=True))
    query = x.float().mean(dim=-2)
    return Task(case.method, case.tokens, x, F.cosine_similarity(x.float(), query.unsqueeze(-2), dim=-1), query)


@functools.lru_cache(maxsize=1)
def _tokens(tokens: Tokens, device: str) -> Tensor:
    return tokens.make(device)


WEIGHTED = ("divprune", "idpruner")
ALL = ("divprune", "idpruner", "mmr", "dpp")


def cpu_cases() -> list[Case]:
    """Those of one input follow each other, and the long ones that tell least come last.

    The first are trained tokens, left out where the tower is not installed (bench/accuracy/requirements.txt).
    """
    first, *others = inputs.PHOTOGRAPHS
    depths = (TOWER_DIMENSIONS, inputs.DIMENSIONS) if inputs.has_tower() else ()
    larger = itertools.product((37, 54), depths)
    return [
        *(case for depth in depths for case in _each(inputs.trained(first, 24, depth), ALL)),
        *(case for side, depth in larger for case in _each(inputs.trained(first, side, depth), WEIGHTED)),
        *_each(inputs.photograph(first, 24), ALL),
        *(case for name in others for case in _each(inputs.photograph(name, 24), WEIGHTED)),
        *_each(inputs.noise(576), ("divprune",)),
        *(case for name in (first, others[0]) for case in _each(inputs.photograph(name, 54), WEIGHTED)),
        *_each(inputs.photograph(first, 54), ("dpp",)),
        *_each(inputs.noise(2_916), ("divprune", "dpp")),
        *_each(inputs.crops(), WEIGHTED),
        *_each(inputs.photograph(first, 80), WEIGHTED),
        *_each(inputs.noise(6_400), ("divprune",)),
        *_each(inputs.video(8), WEIGHTED),
        *_each(inputs.clustered(1_152), WEIGHTED),
        *_each(inputs.duplicates(1_152), WEIGHTED),
        *_each(inputs.photograph(others[0], 80), WEIGHTED),
        *_each(inputs.video(64), WEIGHTED, (torch.bfloat16,)),
    ]


def quick_cpu_cases() -> list[Case]:
    """One photograph and noise, both small."""
    return [*_each(inputs.photograph("astronaut", 24), ALL), *_each(inputs.noise(576), ("divprune",))]


RAGGED = (256, 1_024, 576, 2_880, 400, 1_296, 729, 2_304)
# N, D, k of single items.
CUDA_SIZES = (
    (8_192, 3_584, 820),
    (24_209, 3_584, 2_421),  # a long video
    (7_290, 3_584, 729),  # LLaVA-OneVision
    (3_328, 3_584, 333),  # InternVL: 13 tiles of 256
    (1_152, 4_096, 115),  # LLaVA-NeXT-Video: 144 tokens a frame
    (9_216, 4_096, 922),
    (2_340, 4_096, 160),  # LLaVA-NeXT
    (2_880, 4_096, 640),
    (576, 5_120, 192),  # LLaVA-1.5-13B
    (1_296, 3_584, 324),  # Qwen2.5-VL
    (65_536, 4_096, 6_553),
    (16_384, 3_584, 4_096),  # Qwen2.5-VL at its largest, a quarter
    (256, 3_584, 64),
)


def cuda_cases() -> list[Case]:
    """There may not be time for all of them. DivPrune on the sizes of the targets comes first."""
    small, medium, large = _single(576, 4_096, 58), _single(2_880, 4_096, 288), _single(16_384, 4_096, 1_638)
    batch = _batch(64, 576, 4_096, 58)
    bfloat16 = (torch.bfloat16,)
    return [
        *(case for tokens in (small, medium, large, batch) for case in _each(tokens, ("divprune",), bfloat16)),
        *_each(small, ALL[1:], bfloat16),
        *_each(medium, ALL[1:], bfloat16),
        *(case for tokens in (large, batch) for case in _each(tokens, ("idpruner",), bfloat16)),
        *_each(_packed(RAGGED), WEIGHTED, bfloat16),
        *(case for sizes in CUDA_SIZES for case in _each(_single(*sizes), WEIGHTED, bfloat16)),
        *_each(_batch(13, 256, 3_584, 26), WEIGHTED, bfloat16),
        *(case for items in (4, 8, 32) for case in _each(_batch(items, 576, 4_096, 58), WEIGHTED, bfloat16)),
        *_each(_packed(range(256, 1_280, 16)), WEIGHTED, bfloat16),
        *(case for each in (small, medium) for case in _each(each, WEIGHTED, (torch.float16, torch.float32))),
        *_each(_batch(64, 576, 4_096, 58), WEIGHTED, (torch.float16,)),
        *_each(_single(8_192, 3_584, 820), WEIGHTED, (torch.float32,)),
        *_each(_packed(RAGGED), WEIGHTED, (torch.float32,)),
    ]


def quick_cuda_cases() -> list[Case]:
    """The first input."""
    cases = cuda_cases()
    return [case for case in cases if case.tokens == cases[0].tokens and case.dtype == cases[0].dtype]


def _single(count: int, depth: int, k: int) -> Tokens:
    return inputs.clustered(count, ks=(k,), depth=depth)


def _batch(items: int, count: int, depth: int, k: int) -> Tokens:
    return inputs.clustered(*(count,) * items, ks=(k,) * items, depth=depth, layout=BATCH)


def _packed(counts: Iterable[int], depth: int = 3_584) -> Tokens:
    counts = tuple(counts)
    return inputs.clustered(*counts, ks=[count // 10 for count in counts], depth=depth, layout=PACKED)


def _each(tokens: Tokens, methods: Sequence[str], dtypes: Sequence[torch.dtype] = DTYPES) -> list[Case]:
    return [Case(tokens, *each) for each in itertools.product(methods, dtypes)]
