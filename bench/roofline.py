"""What a selection must cost on an H200 or H100: bounds and predictions in microseconds, to read measurements against.

Nothing here runs on a device. Bounds count the bytes and operations that no implementation of the materialised form
can avoid and let them overlap fully; predictions let nothing overlap. The greedy loop is modelled step by step, a pass
over tiles by what reaches the multiprocessors from the L2 cache, and a selection stage by stage, for either form.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from bench.markdown import heading, line, number
from tokenprune_kernels.backends.triton import configs


@dataclass(frozen=True)
class Gpu:
    """What a device reaches.

    Attributes:
        name: as part of the name that the driver gives.
        bytes_per_second: measured with a device-to-device copy, counting bytes read and bytes written.
        tensor_core_operations_per_second: measured with an 8192 x 8192 x 8192 bfloat16 product of random matrices; the
            datasheet says 990e12.
        float32_operations_per_second: the datasheet's rate outside the tensor cores, where IEEE float32 products run.
        multiprocessors: the streaming multiprocessors that the device reports.
        l2_bytes: of its L2 cache that one copy of the tokens can use.
    """

    name: str
    bytes_per_second: float
    tensor_core_operations_per_second: float
    float32_operations_per_second: float = 67e12
    multiprocessors: int = 132
    l2_bytes: float = 50e6


H200 = Gpu("H200", 4.3e12, 790e12)
H100 = Gpu("H100", 3.0e12, 798e12)
GPUS = (H200, H100)

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


# From one multiprocessor's arrival at a barrier of the whole grid until all go on: an atomic each way. A model.
BARRIER_MICROSECONDS = 1.1
CHUNK = 1_024
SPLIT_BLOCKS = 2
# Passes over all keys in which candidates are chosen: the range, the histogram, now and then a finer one, the list.
CHOICE_PASSES = 4
CHOICE_ROWS = 1_024
CHOICE_STEP_CYCLES = 500

# Lazy greedy rounds, as 1 + factor * sqrt(k): counted on photographs, a drifting crop, clusters and noise, of 576 to
# 6,400 rows, a tenth of them kept, with 256 candidates up to 1,536 rows and 512 above.
ROUND_FACTORS = {"divprune": 0.42, "mmr": 0.18, "idpruner": 0.18}
# Rounds in which the search for the first pick compares its candidates with all rows, on such inputs.
OUTLIER_ROUNDS = 2


def similarity_bytes(count: int, depth: int, element_size: int = 2) -> int:
    """The fewest bytes of a similarity pass over N rows: x is read once, N x N float32 similarities are written."""
    return count * depth * element_size + 4 * count**2


def similarity_operations(count: int, depth: int, *, symmetric: bool = False) -> int:
    """Additions and multiplications: ``2 N^2 D``, or those of one half and the diagonal."""
    return count * (count + 1) * depth if symmetric else 2 * count**2 * depth


def similarity_bound(
    count: int, depth: int, element_size: int = 2, *, symmetric: bool = False, gpu: Gpu = H200
) -> float:
    """The least microseconds of a similarity pass: its bytes or its operations alone, whichever take longer."""
    return max(_similarity_terms(count, depth, element_size, symmetric, gpu))


def similarity_time(
    count: int, depth: int, element_size: int = 2, *, symmetric: bool = False, gpu: Gpu = H200
) -> float:
    """The predicted microseconds of a similarity pass, in which reading and writing overlap with no product."""
    return sum(_similarity_terms(count, depth, element_size, symmetric, gpu))


def greedy_step_cycles(count: int) -> float:
    """The cycles from one pick of N rows to the next, by one thread block."""
    return STEP_LATENCY_CYCLES + 4 * count / STEP_BYTES_PER_CYCLE + count / STEP_LANES + STEP_REDUCTION_CYCLES


def greedy_time(count: int, k: int) -> float:
    """The predicted microseconds in which one thread block picks k of N rows."""
    return 1e6 * k * greedy_step_cycles(count) / CYCLES_PER_SECOND


def launch_time(launches: int = LAUNCHES) -> float:
    """The microseconds that the kernels of one CUDA graph take to start, one after the other."""
    return launches * LAUNCH_MICROSECONDS


def greedy_bound(counts: Sequence[int], kept: Sequence[int], gpu: Gpu = H200) -> float:
    """The least microseconds of the greedy loops of a batch, one thread block an item, as many as fit."""
    times = [greedy_time(count, k) for count, k in zip(counts, kept, strict=True)]
    return max(max(times, default=0.0), sum(times) / gpu.multiprocessors)


def selection_bound(
    counts: Sequence[int], kept: Sequence[int], depth: int, element_size: int = 2, gpu: Gpu = H200
) -> float:
    """The least microseconds of a batch in the materialised form: each item's rows and how many of them are kept."""
    terms = [_similarity_terms(count, depth, element_size, True, gpu) for count in counts]
    return max(map(math.fsum, zip(*terms, strict=True)), default=0.0) + greedy_bound(counts, kept, gpu) + launch_time()


def candidate_operations(count: int, k: int, depth: int) -> int:
    """The fewest additions and multiplications of the lazy greedy form: every row is compared with every pick."""
    return 2 * count * k * depth


def candidate_bound(
    counts: Sequence[int], kept: Sequence[int], depth: int, candidates: int, element_size: int = 2, gpu: Gpu = H200
) -> float:
    """The least microseconds of a batch in the lazy greedy form, with that many candidates a round.

    x is read for the norms and for one round at least, while every row is compared with every pick.
    """
    rate = _operations_per_second(element_size, gpu)
    read = 1e6 * 2 * sum(counts) * depth * element_size / gpu.bytes_per_second
    compared = 1e6 * sum(candidate_operations(count, k, depth) for count, k in zip(counts, kept, strict=True)) / rate
    return max(read, compared) + greedy_bound([candidates] * len(counts), kept, gpu) + launch_time()


def _operations_per_second(element_size: int, gpu: Gpu) -> float:
    return gpu.float32_operations_per_second if element_size == 4 else gpu.tensor_core_operations_per_second


def _similarity_terms(count: int, depth: int, element_size: int, symmetric: bool, gpu: Gpu) -> tuple[float, float]:
    """The microseconds of a similarity pass's bytes, and of its operations."""
    rate = _operations_per_second(element_size, gpu)
    operations = similarity_operations(count, depth, symmetric=symmetric)
    return 1e6 * similarity_bytes(count, depth, element_size) / gpu.bytes_per_second, 1e6 * operations / rate


def tile_pass_time(
    units: int,
    rows: int,
    depth: float,
    element_size: int = 2,
    *,
    tile: int = 64 * 64,
    all_rows: int = 0,
    gpu: Gpu = H200,
) -> float:
    """The predicted microseconds of units of work side by side, each of which reads ``rows`` rows of x.

    Args:
        units: spread over the multiprocessors as evenly as whole units go.
        rows: those of a unit; they come from the L2 cache.
        depth: D of a unit.
        element_size: bytes of an element of x.
        tile: similarities of a unit.
        all_rows: rows of x that have to be read from memory, because they do not fit the L2 cache.
    """
    each = -(-units // gpu.multiprocessors)
    bytes_each = each * rows * depth * element_size
    rate = _operations_per_second(element_size, gpu)
    products = 1e6 * each * 2 * tile * depth / (rate / gpu.multiprocessors)
    from_memory = 1e6 * all_rows * depth * element_size / gpu.bytes_per_second
    if all_rows * depth * element_size <= gpu.l2_bytes:
        from_memory = 0.0
    latency = 1e6 * STEP_LATENCY_CYCLES / CYCLES_PER_SECOND
    return max(1e6 * bytes_each / STEP_BYTES_PER_CYCLE / CYCLES_PER_SECOND, products, from_memory) + latency


def split_pass_time(
    tiles: int,
    depth: int,
    element_size: int = 2,
    *,
    block: int = 64,
    columns: int = 64,
    all_rows: int = 0,
    gpu: Gpu = H200,
) -> float:
    """The predicted microseconds of tiles of ``block`` rows and ``columns`` columns, with split-K where these are few.

    Then each split of a tile is a unit of work, and the splits are added up, from the L2 cache.
    """
    blocks = -(-columns // block)
    # A round that updates with more picks than that does not split.
    splits = configs.split_k(tiles, -(-depth // CHUNK), gpu.multiprocessors) if blocks <= SPLIT_BLOCKS else 1
    time = tile_pass_time(
        tiles * splits,
        blocks * block + columns,
        depth / splits,
        element_size,
        tile=blocks * block**2,
        all_rows=all_rows,
        gpu=gpu,
    )
    return time + (tile_pass_time(tiles, blocks * block, block * splits, 4, tile=0, gpu=gpu) if splits > 1 else 0.0)


def norms_time(count: int, depth: int, element_size: int = 2, gpu: Gpu = H200) -> float:
    """The predicted microseconds of the row norms, which read x once, from memory."""
    return 1e6 * count * depth * element_size / gpu.bytes_per_second + 1e6 * STEP_LATENCY_CYCLES / CYCLES_PER_SECOND


def materialised_stages(
    count: int, k: int, depth: int, element_size: int = 2, *, items: int = 1, gpu: Gpu = H200
) -> dict[str, float]:
    """The predicted microseconds of each stage of the materialised form, for a batch; launches are counted in."""
    block = 128 if count > 1_536 and element_size == 2 else 64
    blocks = -(-count // block)
    tiles = items * (blocks * (blocks + 1) // 2)
    pass_time = split_pass_time(tiles, depth, element_size, block=block, columns=block, all_rows=items * count, gpu=gpu)
    written = 1e6 * 4 * items * count**2 / gpu.bytes_per_second
    return {
        "row norms": norms_time(items * count, depth, element_size, gpu) + LAUNCH_MICROSECONDS,
        "similarity pass": pass_time + written + LAUNCH_MICROSECONDS,
        "greedy loop": greedy_bound([count] * items, [k] * items, gpu) + LAUNCH_MICROSECONDS,
    }


def candidate_rounds(method: str, k: int) -> float:
    """How many lazy greedy rounds a selection takes, as counted on pictures."""
    return 1 + ROUND_FACTORS[method] * math.sqrt(k)


def candidate_stages(
    method: str, count: int, k: int, depth: int, candidates: int, element_size: int = 2, gpu: Gpu = H200
) -> dict[str, float]:
    """The predicted microseconds of each stage of the lazy greedy form, for one item; launches counted in."""
    rounds = candidate_rounds(method, k)
    blocks = -(-count // 64)
    tiles = candidates // 64 * (candidates // 64 + 1) // 2
    picks = max(1, round(k / rounds))
    choice = 1e6 * CHOICE_PASSES * -(-count // CHOICE_ROWS) * CHOICE_STEP_CYCLES / CYCLES_PER_SECOND
    first = choice + LAUNCH_MICROSECONDS
    if method == "divprune":
        comparing = tile_pass_time(blocks, 128, depth, element_size, all_rows=count, gpu=gpu)
        first = (1 + OUTLIER_ROUNDS) * (comparing + choice + BARRIER_MICROSECONDS) + LAUNCH_MICROSECONDS
    update = split_pass_time(blocks, depth, element_size, columns=picks, all_rows=count, gpu=gpu)
    comparing = split_pass_time(tiles, depth, element_size, gpu=gpu)
    return {
        "row norms": norms_time(count, depth, element_size, gpu) + LAUNCH_MICROSECONDS,
        "first pick": first,
        "lazy greedy rounds": rounds * (update + choice + comparing + 2 * BARRIER_MICROSECONDS)
        + greedy_time(candidates, k)
        + LAUNCH_MICROSECONDS,
    }


# Method, items, N, k of the predictions shown, in bfloat16.
SHOWN = (
    ("divprune", 1, 576, 58),
    ("divprune", 64, 576, 58),
    ("divprune", 1, 2_880, 288),
    ("divprune", 1, 16_384, 1_638),
    ("divprune", 1, 65_536, 6_553),
    ("idpruner", 1, 576, 58),
    ("idpruner", 1, 2_880, 288),
    ("idpruner", 1, 16_384, 1_638),
)
SHOWN_DEPTH = 4_096


def gpu_named(name: str) -> Gpu:
    """The device whose name is part of the driver's; an H200 where none is."""
    return next((gpu for gpu in GPUS if gpu.name in name), H200)


def table() -> str:
    """The predicted microseconds of some selections in Markdown, each in the form that the backend takes."""
    stages_named = "H200: norms + similarity pass + greedy loop, or norms + first pick + lazy greedy rounds"
    lines = heading(("operator", "N, k", "form", stages_named, "H200, together", "H100, together"))
    for method, items, count, k in SHOWN:
        lazy_greedy = configs.lazy_greedy_wins(method, count)
        together = []
        for gpu in GPUS:
            if lazy_greedy:
                candidates = configs.candidate_count(2, count)
                stages = candidate_stages(method, count, k, SHOWN_DEPTH, candidates, gpu=gpu)
            else:
                stages = materialised_stages(count, k, SHOWN_DEPTH, items=items, gpu=gpu)
            together.append(stages)
        size = f"{f'{items} x ' if items > 1 else ''}{count:,}, k = {k:,}"
        form = "lazy greedy" if lazy_greedy else "materialised"
        parts = " + ".join(map(number, together[0].values()))
        lines.append(line((f"`{method}`", size, form, parts, *(number(sum(each.values())) for each in together))))
    return "\n".join(lines)


# The tokens, the milliseconds, and what is known of how they came about.
PUBLISHED = (
    ("torch-quickfps, buckets", "1,000 x 4,096, k = 250", "10.6", "GPU not named"),
    ("torch-quickfps, buckets", "2,000 x 4,096, k = 500", "34.0", "GPU not named"),
    ("torch-quickfps, buckets", "5,000 x 4,096, k = 1,250", "154.9", "GPU not named"),
    ("torch-quickfps, buckets", "10,000 x 4,096, k = 2,500", "645.9", "GPU not named"),
    (
        "UniAttn's MMR kernel, one launch",
        "13 images of up to 1,024 tokens",
        "32.8",
        "one GPU shared by eight processes",
    ),
)


def published_table() -> str:
    """The times that other packages publish of their own selections on a GPU, in Markdown. None was measured here."""
    return "\n".join([*heading(("package", "tokens", "milliseconds", "how")), *map(line, PUBLISHED)])
