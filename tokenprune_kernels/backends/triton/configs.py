"""Launch knobs as data: tiles, warps and stages by dtype, N, D, alignment and device, each with its reason.

A configuration may change how work is divided, never the order in which a similarity is summed. No row is tuned: none
has been timed on a GPU yet. ``registers`` (per thread) and ``shared_memory`` (bytes per block) are ceilings that the
machine code is tested against.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass

LARGEST_COUNT = 16_384
"""The greedy kernel holds the keys of this many rows in registers at most."""

LAZY_GREEDY_FROM = {"divprune": 6_144, "mmr": 2_048, "idpruner": 2_048}
"""From this number of rows on, the lazy greedy form is expected to be faster: modelled by bench/roofline.py, never
measured.

The lazy greedy form of DivPrune has to search for its first pick, which the materialised form reads off its
similarities. In noise the search takes several times as long as modelled. The threshold has a margin of a quarter.
"""

MAX_SPLITS = 8
"""Split-K divides D into this many splits at most."""


@dataclass(frozen=True, kw_only=True)
class SimilarityConfig:
    """The tile of a pass over pairs of rows, ``block_n x block_n`` similarities from ``block_d`` elements at a time."""

    element_sizes: tuple[int, ...]
    largest_count: int = LARGEST_COUNT
    largest_d: float = math.inf
    oldest_architecture: int = 80
    needs_alignment: bool = False
    block_n: int = 64
    block_d: int = 64
    num_warps: int = 4
    num_stages: int = 3
    registers: int = 255
    shared_memory: int = 50_000
    reason: str


@dataclass(frozen=True, kw_only=True)
class GreedyConfig:
    """The greedy loop over up to ``block_n`` rows, by one program of ``num_warps`` warps."""

    block_n: int
    num_warps: int
    registers: int
    reason: str


@dataclass(frozen=True, kw_only=True)
class CooperativeConfig:
    """The tile of a kernel with a cooperative launch: outlier search, lazy greedy, DPP.

    ``programs`` of them are resident on one multiprocessor at once. Where the device refuses so many, there
    is only one.
    """

    element_sizes: tuple[int, ...]
    oldest_architecture: int = 80
    needs_alignment: bool = False
    block_n: int = 64
    block_d: int = 64
    num_warps: int = 8
    num_stages: int = 3
    programs: int = 1
    registers: int = 255
    shared_memory: int = 50_000
    reason: str


@dataclass(frozen=True, kw_only=True)
class CandidateCount:
    """How many candidates a lazy greedy round has at most."""

    element_sizes: tuple[int, ...]
    largest_count: float = math.inf
    candidates: int
    reason: str


# The first row that fits is taken.
SIMILARITY = (
    SimilarityConfig(
        element_sizes=(2,),
        largest_d=64,
        num_stages=1,
        shared_memory=20_000,
        reason="all of D is one block: nothing to load ahead of",
    ),
    SimilarityConfig(
        element_sizes=(2,), largest_count=1_536, reason="small N leaves most of the chip idle with larger tiles"
    ),
    SimilarityConfig(
        element_sizes=(2,),
        oldest_architecture=90,
        needs_alignment=True,
        block_n=128,
        num_warps=8,
        shared_memory=100_000,
        reason="half the traffic of the tile below; spills without 16-byte loads",
    ),
    SimilarityConfig(element_sizes=(2,), reason="conservative: fits everything"),
    SimilarityConfig(
        element_sizes=(4,),
        needs_alignment=True,
        block_d=16,
        num_warps=8,
        num_stages=2,
        reason="float32 products run outside the tensor cores; a third stage spills",
    ),
    SimilarityConfig(
        element_sizes=(4,),
        block_d=16,
        num_warps=8,
        num_stages=1,
        reason="without 16-byte loads a second stage spills on sm_100",
    ),
)

# Two tensors take more registers for addresses than one. The first row that fits is taken.
CROSS_SIMILARITY = (
    SimilarityConfig(element_sizes=(2,), needs_alignment=True, reason="the conservative tile of the similarity pass"),
    SimilarityConfig(
        element_sizes=(2,), block_d=16, num_warps=8, reason="without 16-byte loads, longer blocks of D spill"
    ),
    SimilarityConfig(
        element_sizes=(4,), block_d=16, num_warps=8, num_stages=2, reason="with one stage it spills on sm_100"
    ),
)

GREEDY = (
    # Cycles of a step, from the machine code for sm_90: those of one warp without loads and barriers. More warps do not
    # shorten the rest: an L2 hit, 3 barriers, 2 reductions of a warp.
    GreedyConfig(block_n=512, num_warps=4, registers=64, reason="4 rows a thread: 203 cycles a step"),
    GreedyConfig(
        block_n=4_096,
        num_warps=8,
        registers=104,
        reason="221 cycles a step of 1,024 rows, 308 with 4 warps; 512 of 4,096",
    ),
    GreedyConfig(block_n=8_192, num_warps=16, registers=128, reason="16 rows a thread"),
    GreedyConfig(block_n=LARGEST_COUNT, num_warps=32, registers=64, reason="16 rows a thread, all a block can have"),
)

LAZY_GREEDY = (
    CooperativeConfig(
        element_sizes=(2,),
        oldest_architecture=90,
        needs_alignment=True,
        num_warps=4,
        programs=2,
        reason="two programs hide each other's latencies; spills on sm_80 and without 16-byte loads",
    ),
    CooperativeConfig(
        element_sizes=(2,),
        needs_alignment=True,
        block_d=32,
        reason="conservative: fits every device, with registers to spare",
    ),
    CooperativeConfig(element_sizes=(2,), block_d=16, reason="the addresses of single elements take many registers"),
    CooperativeConfig(
        element_sizes=(4,),
        block_d=16,
        num_stages=1,
        reason="float32 products run outside the tensor cores; a second stage spills",
    ),
)

# A step reads each block once. Small blocks keep more of the chip busy.
DPP = (
    CooperativeConfig(
        element_sizes=(2,), block_n=16, num_warps=4, programs=2, reason="a step waits for memory, not for products"
    ),
    CooperativeConfig(
        element_sizes=(4,),
        block_n=16,
        num_stages=1,
        reason="twice the element size; with 4 warps it spills, and two programs would take every register there is",
    ),
)

CANDIDATE_COUNTS = (
    CandidateCount(
        element_sizes=(2,), largest_count=1_536, candidates=256, reason="for few rows, more candidates save no round"
    ),
    CandidateCount(
        element_sizes=(2,),
        largest_count=8_192,
        candidates=512,
        reason="512 candidates are 36 tiles: with split-K one wave, like the 10 tiles of 256, and fewer rounds",
    ),
    CandidateCount(
        element_sizes=(2,), candidates=1_024, reason="a round reads all of x from memory, so fewer rounds are better"
    ),
    CandidateCount(
        element_sizes=(4,), candidates=256, reason="float32 products are slow, so the Gram matrix has to stay small"
    ),
)


def similarity_config(element_size: int, count: int, d: int, architecture: int, aligned: bool) -> SimilarityConfig:
    """The first fitting row of the table.

    Args:
        element_size: bytes of an element of x.
        count: N, or the longest segment.
        d: D.
        architecture: the device's compute capability, such as 90 for sm_90.
        aligned: whether rows can be loaded 16 bytes at a time.
    """
    return next(
        config
        for config in SIMILARITY
        if element_size in config.element_sizes
        and count <= config.largest_count
        and d <= config.largest_d
        and architecture >= config.oldest_architecture
        and (aligned or not config.needs_alignment)
    )


def cross_similarity_config(element_size: int, aligned: bool) -> SimilarityConfig:
    """The first fitting row of the table. The arguments are those of `similarity_config`."""
    return next(
        config
        for config in CROSS_SIMILARITY
        if element_size in config.element_sizes and (aligned or not config.needs_alignment)
    )


def greedy_config(block_n: int) -> GreedyConfig:
    """The first row of the table that holds ``block_n`` rows."""
    return next(config for config in GREEDY if block_n <= config.block_n)


def lazy_greedy_config(element_size: int, architecture: int, aligned: bool) -> CooperativeConfig:
    """The first fitting row of the table. The arguments are those of `similarity_config`."""
    return next(
        config
        for config in LAZY_GREEDY
        if element_size in config.element_sizes
        and architecture >= config.oldest_architecture
        and (aligned or not config.needs_alignment)
    )


def dpp_config(element_size: int) -> CooperativeConfig:
    """The row of the table for elements of x of ``element_size`` bytes."""
    return next(config for config in DPP if element_size in config.element_sizes)


def candidate_count(element_size: int, count: int) -> int:
    """How many candidates a round has at most. The arguments are those of `similarity_config`."""
    return next(
        row.candidates for row in CANDIDATE_COUNTS if element_size in row.element_sizes and count <= row.largest_count
    )


def lazy_greedy_wins(method: str, count: int) -> bool:
    """Whether the lazy greedy form is expected to be faster than the materialised one, where both are possible."""
    return count >= LAZY_GREEDY_FROM[method]


def split_k(tiles: int, chunks: int, multiprocessors: int) -> int:
    """How many splits D has, so that there is work for every multiprocessor: one for each chunk, or a single one.

    A single one where there are tiles enough, and where the partial sums would take much memory.

    Args:
        tiles: how many tiles of dot products there are.
        chunks: how many chunks D has.
        multiprocessors: of the device.
    """
    return chunks if tiles < multiprocessors and chunks <= MAX_SPLITS else 1


def workspace_limit(environment: Mapping[str, str] = os.environ) -> int:
    """The bytes in ``TOKENPRUNE_WORKSPACE_LIMIT``; 1 GiB without it.

    Raises:
        ValueError: no whole number of at least 1.
    """
    text = environment.get("TOKENPRUNE_WORKSPACE_LIMIT") or str(2**30)
    if not text.isdecimal() or int(text) < 1:
        raise ValueError(f"TOKENPRUNE_WORKSPACE_LIMIT: expected a number of bytes, at least 1, got {text!r}")
    return int(text)
