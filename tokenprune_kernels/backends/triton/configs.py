"""Launch knobs as data: tiles, warps and stages by dtype, N, D, alignment and device, each with its reason.

A configuration may change how work is cut, never the order in which a similarity is summed. No row is tuned: none has
been timed on a GPU yet. ``registers`` (per thread) and ``shared_memory`` (bytes per block) are ceilings that the
machine code is tested against.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass

LARGEST_COUNT = 16_384
"""The most rows of one item that the greedy kernel holds in registers."""

CANDIDATES_FROM = {"divprune": 6_144, "mmr": 2_048, "idpruner": 2_048}
"""From so many rows on, candidate blocks are taken to be faster: modelled by bench/roofline.py, never measured.

DivPrune has to search for its first pick as well, which the materialised form finds on the way. Where no row stands
out, in noise, that takes several times as long as the model says, for which there is a margin of a quarter.
"""


MOST_PARTS = 8
"""Into so many parts D is split at most."""


@dataclass(frozen=True, kw_only=True)
class SimilarityConfig:
    """The tile of the similarity pass, ``block_n x block_n`` similarities from ``block_d`` elements at a time."""

    element_sizes: tuple[int, ...]
    largest_count: int = LARGEST_COUNT
    largest_depth: float = math.inf
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
    """The greedy loop over up to ``block_n`` rows, held by one block of ``num_warps`` warps."""

    block_n: int
    num_warps: int
    registers: int
    reason: str


@dataclass(frozen=True, kw_only=True)
class CandidateConfig:
    """The tile of the outlier search and of the candidate blocks, as above.

    ``programs`` are those of a multiprocessor that are resident at once.
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
    """How many candidates a round has."""

    element_sizes: tuple[int, ...]
    largest_count: float = math.inf
    candidates: int
    reason: str


# The first row that fits is taken.
SIMILARITY = (
    SimilarityConfig(
        element_sizes=(2,),
        largest_depth=64,
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

GREEDY = (
    # A step's latency is the fixed part that sm_90's machine code states (cycles of one warp, loads and barriers aside)
    # and what does not shrink with more warps: an L2 hit, 3 barriers, 2 reductions of a warp.
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


CANDIDATES = (
    CandidateConfig(
        element_sizes=(2,),
        oldest_architecture=90,
        needs_alignment=True,
        num_warps=4,
        programs=2,
        reason="two programs hide each other's latencies; spills on sm_80 and without 16-byte loads",
    ),
    CandidateConfig(
        element_sizes=(2,),
        needs_alignment=True,
        block_d=32,
        reason="conservative: fits every device, with registers to spare",
    ),
    CandidateConfig(element_sizes=(2,), block_d=16, reason="the addresses of single elements take many registers"),
    CandidateConfig(
        element_sizes=(4,),
        block_d=16,
        num_stages=1,
        reason="float32 products run outside the tensor cores; a second stage spills",
    ),
)

# Blocks of few rows: a turn reads each of them once, and small ones keep more of the chip busy.
DPP = (
    CandidateConfig(
        element_sizes=(2,), block_n=16, num_warps=4, programs=2, reason="a turn waits for memory, not for products"
    ),
    CandidateConfig(
        element_sizes=(4,),
        block_n=16,
        num_stages=1,
        programs=2,
        reason="twice the element size; with 4 warps it spills",
    ),
)

CANDIDATE_COUNTS = (
    CandidateCount(
        element_sizes=(2,), largest_count=1_536, candidates=256, reason="a wider block saves no round of so few rows"
    ),
    CandidateCount(
        element_sizes=(2,),
        largest_count=8_192,
        candidates=512,
        reason="its 36 tiles, in parts of D, are one wave, as the 10 of half the block are, and it takes fewer rounds",
    ),
    CandidateCount(
        element_sizes=(2,), candidates=1_024, reason="a round reads all of x from memory: the fewer, the better"
    ),
    CandidateCount(element_sizes=(4,), candidates=256, reason="float32 products are slow: comparing has to stay cheap"),
)


def similarity_config(element_size: int, count: int, depth: int, architecture: int, aligned: bool) -> SimilarityConfig:
    """The first fitting row of the table.

    Args:
        element_size: bytes of an element of x.
        count: N, or the longest segment.
        depth: D.
        architecture: the device's compute capability, such as 90 for sm_90.
        aligned: whether rows can be loaded 16 bytes at a time.
    """
    return next(
        config
        for config in SIMILARITY
        if element_size in config.element_sizes
        and count <= config.largest_count
        and depth <= config.largest_depth
        and architecture >= config.oldest_architecture
        and (aligned or not config.needs_alignment)
    )


def greedy_config(block_n: int) -> GreedyConfig:
    """The first row of the table that holds so many rows."""
    return next(config for config in GREEDY if block_n <= config.block_n)


def candidate_config(element_size: int, architecture: int, aligned: bool) -> CandidateConfig:
    """The first fitting row of the table; arguments as above."""
    return next(
        config
        for config in CANDIDATES
        if element_size in config.element_sizes
        and architecture >= config.oldest_architecture
        and (aligned or not config.needs_alignment)
    )


def dpp_config(element_size: int) -> CandidateConfig:
    """The row of the table for the DPP; bytes of an element of x."""
    return next(config for config in DPP if element_size in config.element_sizes)


def candidate_count(element_size: int, count: int) -> int:
    """How many candidates a round has; arguments as above."""
    return next(
        row.candidates for row in CANDIDATE_COUNTS if element_size in row.element_sizes and count <= row.largest_count
    )


def candidates_win(method: str, count: int) -> bool:
    """Whether candidate blocks are taken to be faster than materialised similarities, where both can be had."""
    return count >= CANDIDATES_FROM[method]


def parts_of_depth(tiles: int, chunks: int, multiprocessors: int) -> int:
    """Into how many parts D is split, so that there is a unit of work for every multiprocessor.

    Chunk by chunk or not at all; not where their sums would take much memory.
    """
    return chunks if tiles < multiprocessors and chunks <= MOST_PARTS else 1


def workspace_limit(environment: Mapping[str, str] = os.environ) -> int:
    """The bytes in ``TOKENPRUNE_WORKSPACE_LIMIT``; 1 GiB without it.

    Raises:
        ValueError: no whole number of at least 1.
    """
    text = environment.get("TOKENPRUNE_WORKSPACE_LIMIT") or str(2**30)
    if not text.isdecimal() or int(text) < 1:
        raise ValueError(f"TOKENPRUNE_WORKSPACE_LIMIT: expected a number of bytes, at least 1, got {text!r}")
    return int(text)
