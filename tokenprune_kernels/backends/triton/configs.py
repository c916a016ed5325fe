"""Launch knobs as data: tiles, warps and stages by dtype, N, D, alignment and device, each with its reason.

A configuration may change how work is cut, never the order in which a similarity is summed. No row is tuned: none has
been timed on a GPU yet. ``registers`` (per thread) and ``shared_memory`` (bytes per block) are ceilings that the
machine code is tested against.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

LARGEST_COUNT = 16_384
"""The most rows of one item that the greedy kernel holds in registers."""


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
    registers: int = 232
    shared_memory: int = 50_000
    reason: str


@dataclass(frozen=True, kw_only=True)
class GreedyConfig:
    """The greedy loop over up to ``block_n`` rows, held by one block of ``num_warps`` warps."""

    block_n: int
    oldest_architecture: int = 80
    num_warps: int
    relevance_on_chip: bool = True
    registers: int
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
        registers=255,
        shared_memory=100_000,
        reason="half the traffic of the tile below; spills without 16-byte loads",
    ),
    SimilarityConfig(element_sizes=(2,), reason="conservative: fits everything"),
    SimilarityConfig(
        element_sizes=(4,),
        block_d=16,
        num_warps=8,
        num_stages=2,
        registers=255,
        reason="float32 products run outside the tensor cores; a third stage spills",
    ),
)

GREEDY = (
    GreedyConfig(
        block_n=1_024, num_warps=4, registers=96, reason="8 rows a thread; few warps make the reduction short"
    ),
    GreedyConfig(block_n=4_096, num_warps=8, registers=128, reason="16 rows a thread"),
    GreedyConfig(block_n=8_192, num_warps=16, registers=128, reason="16 rows a thread"),
    GreedyConfig(
        block_n=LARGEST_COUNT,
        oldest_architecture=100,
        num_warps=32,
        relevance_on_chip=False,
        registers=64,
        reason="as below; with the relevance in registers the compiler spills on sm_100",
    ),
    GreedyConfig(block_n=LARGEST_COUNT, num_warps=32, registers=64, reason="16 rows a thread, all a block can have"),
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


def greedy_config(block_n: int, architecture: int) -> GreedyConfig:
    """The first row of the table that holds so many rows, for the device's compute capability."""
    return next(config for config in GREEDY if block_n <= config.block_n and architecture >= config.oldest_architecture)
