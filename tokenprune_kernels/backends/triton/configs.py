"""Launch knobs as data: tiles, warps and stages by dtype, N and device, each with its reason.

A configuration may change how work is cut, never the order in which a similarity is summed. No row is tuned: none has
been timed on a GPU yet. ``registers`` (per thread) and ``shared_memory`` (bytes per block) are ceilings that the
machine code is tested against.
"""

from __future__ import annotations

from dataclasses import dataclass

LARGEST_COUNT = 16_384
"""The most rows of one item that the greedy kernel holds in registers."""


@dataclass(frozen=True)
class SimilarityConfig:
    """The tile of the similarity pass, ``BLOCK_N x BLOCK_N`` similarities from ``BLOCK_D`` elements at a time."""

    element_sizes: tuple[int, ...]
    largest_count: int
    oldest_architecture: int
    needs_alignment: bool
    block_n: int
    block_d: int
    num_warps: int
    num_stages: int
    registers: int
    shared_memory: int
    reason: str


@dataclass(frozen=True)
class GreedyConfig:
    """The greedy loop over up to ``block_n`` rows, held by one block of ``num_warps`` warps."""

    block_n: int
    num_warps: int
    registers: int
    reason: str


# The first row that fits is taken.
SIMILARITY = (
    SimilarityConfig(
        (2,), 1_536, 80, False, 64, 64, 4, 3, 232, 50_000, "small N leaves most of the chip idle with larger tiles"
    ),
    SimilarityConfig(
        (2,), LARGEST_COUNT, 90, True, 128, 64, 8, 3, 255, 100_000, "half the traffic; spills without 16-byte loads"
    ),
    SimilarityConfig((2,), LARGEST_COUNT, 80, False, 64, 64, 4, 3, 232, 50_000, "conservative: fits everything"),
    SimilarityConfig(
        (4,),
        LARGEST_COUNT,
        80,
        False,
        64,
        16,
        8,
        2,
        255,
        50_000,
        "float32 products run outside the tensor cores; a third stage spills",
    ),
)

GREEDY = (
    GreedyConfig(1_024, 4, 128, "8 rows a thread; few warps make the reduction short"),
    GreedyConfig(4_096, 8, 168, "16 rows a thread"),
    GreedyConfig(8_192, 16, 128, "16 rows a thread"),
    GreedyConfig(LARGEST_COUNT, 32, 64, "16 rows a thread, all a block can have"),
)


def similarity_config(element_size: int, count: int, architecture: int, aligned: bool) -> SimilarityConfig:
    """The first fitting row of the table.

    Args:
        element_size: bytes of an element of x.
        count: N, or the longest segment.
        architecture: the device's compute capability, such as 90 for sm_90.
        aligned: whether rows can be loaded 16 bytes at a time.
    """
    return next(
        config
        for config in SIMILARITY
        if element_size in config.element_sizes
        and count <= config.largest_count
        and architecture >= config.oldest_architecture
        and (aligned or not config.needs_alignment)
    )


def greedy_config(block_n: int) -> GreedyConfig:
    """The first row of the table that holds so many rows."""
    return next(config for config in GREEDY if block_n <= config.block_n)
