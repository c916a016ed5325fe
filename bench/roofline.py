"""What a selection must cost on an H200: bounds and predictions in microseconds, to read measurements against.

Nothing here runs on a device. Bounds count the bytes and operations that no implementation of the materialised form
can avoid and let them overlap fully; predictions let nothing overlap. The greedy loop is modelled step by step.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

# Measured with a device-to-device copy, counting bytes read and bytes written.
BYTES_PER_SECOND = 4.3e12
# Measured with an 8192 x 8192 x 8192 bfloat16 product of random matrices; the datasheet says 990e12.
TENSOR_CORE_OPERATIONS_PER_SECOND = 790e12
# The datasheet's rate outside the tensor cores, where IEEE float32 products run.
FLOAT32_OPERATIONS_PER_SECOND = 67e12
# The streaming multiprocessors that the device reports.
MULTIPROCESSORS = 132
# The clock that the cycle counts below are taken at; 1.98e9 was read under load.
CYCLES_PER_SECOND = 1.9e9
# From one node of a CUDA graph to the next.
LAUNCH_MICROSECONDS = 1.3
# The row norms, the similarity pass, the greedy loop.
LAUNCHES = 3

# One step of the greedy loop by one thread block over float32 similarities in L2. A model, not a measurement:
# the latency of an L2 hit,
STEP_LATENCY_CYCLES = 286
# a row of 4 N bytes at the 90 bytes a cycle that one multiprocessor takes from L2,
STEP_BYTES_PER_CYCLE = 90
# one update of the running maximum for each of 128 lanes,
STEP_LANES = 128
# and the reduction over the block, through shared memory and back.
STEP_REDUCTION_CYCLES = 170


def similarity_bytes(count: int, depth: int, element_size: int = 2) -> int:
    """The fewest bytes of a similarity pass over N rows: x is read once, N x N float32 similarities are written."""
    return count * depth * element_size + 4 * count**2


def similarity_operations(count: int, depth: int, *, symmetric: bool = False) -> int:
    """Additions and multiplications: ``2 N^2 D``, or those of one half and the diagonal."""
    return count * (count + 1) * depth if symmetric else 2 * count**2 * depth


def similarity_bound(count: int, depth: int, element_size: int = 2, *, symmetric: bool = False) -> float:
    """The least microseconds of a similarity pass: its bytes or its operations alone, whichever take longer."""
    return max(_similarity_terms(count, depth, element_size, symmetric))


def similarity_time(count: int, depth: int, element_size: int = 2, *, symmetric: bool = False) -> float:
    """The predicted microseconds of a similarity pass, in which reading and writing overlap with no product."""
    return sum(_similarity_terms(count, depth, element_size, symmetric))


def greedy_step_cycles(count: int) -> float:
    """The cycles from one pick of N rows to the next, by one thread block."""
    return STEP_LATENCY_CYCLES + 4 * count / STEP_BYTES_PER_CYCLE + count / STEP_LANES + STEP_REDUCTION_CYCLES


def greedy_time(count: int, k: int) -> float:
    """The predicted microseconds in which one thread block picks k of N rows."""
    return 1e6 * k * greedy_step_cycles(count) / CYCLES_PER_SECOND


def launch_time(launches: int = LAUNCHES) -> float:
    """The microseconds that so many kernels of one CUDA graph take to start, one after the other."""
    return launches * LAUNCH_MICROSECONDS


def greedy_bound(counts: Sequence[int], kept: Sequence[int]) -> float:
    """The least microseconds of the greedy loops of a batch, one thread block an item, as many as there is room for."""
    times = [greedy_time(count, k) for count, k in zip(counts, kept, strict=True)]
    return max(max(times, default=0.0), sum(times) / MULTIPROCESSORS)


def selection_bound(counts: Sequence[int], kept: Sequence[int], depth: int, element_size: int = 2) -> float:
    """The least microseconds of a batch in the materialised form: each item's rows and how many of them are kept."""
    terms = [_similarity_terms(count, depth, element_size, True) for count in counts]
    return max(map(math.fsum, zip(*terms, strict=True)), default=0.0) + greedy_bound(counts, kept) + launch_time()


def _similarity_terms(count: int, depth: int, element_size: int, symmetric: bool) -> tuple[float, float]:
    """The microseconds of a similarity pass's bytes, and of its operations."""
    rate = FLOAT32_OPERATIONS_PER_SECOND if element_size == 4 else TENSOR_CORE_OPERATIONS_PER_SECOND
    operations = similarity_operations(count, depth, symmetric=symmetric)
    return 1e6 * similarity_bytes(count, depth, element_size) / BYTES_PER_SECOND, 1e6 * operations / rate
