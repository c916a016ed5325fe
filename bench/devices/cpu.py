"""The processor: its timer, the bound of a selection at its rates, and what else belongs to its result."""

from __future__ import annotations

import functools
import platform
import subprocess
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib import metadata
from time import perf_counter
from typing import Any

import torch
from torch import Tensor

import tokenprune_kernels
from bench import memory, tables
from bench.cases import DTYPES, Case, Task, cpu_cases, quick_cpu_cases
from bench.files import described, processor
from bench.inputs import DIMENSIONS
from bench.markdown import number
from bench.measure import Benchmark, Result
from bench.peers import CPU_PEERS, Implementation, Select
from bench.row import Row
from tokenprune_kernels.methods import METHODS

SAMPLING_SECONDS = 1.0
LEAST_ROUNDS, MOST_ROUNDS = 3, 50
EDGE = 2_048
PRODUCTS, READS = 5, 20
PACKAGES = ("torch-quickfps", "pyversity", "langchain-core")


class Cpu:
    """The clock of the processor."""

    name = "cpu"
    type = "cpu"
    budget_seconds = 720.0
    cases_before_compiled = 4
    again_seconds = 0.25
    compilation_seconds = 30.0

    def cases(self, quick: bool) -> list[Case]:
        return quick_cpu_cases() if quick else cpu_cases()

    def peers(self) -> Iterable[Implementation]:
        return CPU_PEERS

    def ways(self, implementation: Implementation) -> tuple[str, ...]:
        return ("",)

    def time(
        self, select: Select, x: Tensor, how: str = "", seconds: float | None = None
    ) -> tuple[list[Result], list[float]]:
        """Calls until the time is over; the first two, of what takes long the first one, warm up."""
        seconds = SAMPLING_SECONDS if seconds is None else seconds
        result, taken = _timed(select, x)
        results = [result]
        if taken < seconds:
            result, taken = _timed(select, x)  # the first call also starts threads and fills caches
            results.append(result)
        milliseconds = []
        for _ in range(rounds_for(taken, seconds)):
            result, taken = _timed(select, x)
            results.append(result)
            milliseconds.append(1e3 * taken)
        return results, milliseconds

    def explain(self, row: Row, given: Task, select: Select) -> None:
        """The bound."""
        tokens = given.tokens
        row.bound = 1e3 * bound(row.method, tokens.counts, tokens.ks, tokens.depth, given.x.itemsize, rates(given.x))

    def surroundings(self, benchmark: Benchmark, quick: bool) -> dict[str, Any]:
        """The machine, and the memory that the operators take."""
        return {
            "machine": machine(),
            "memory": {
                "count": memory.COUNT,
                "depth": memory.DEPTH,
                "k": memory.K,
                "similarities_megabytes": memory.SIMILARITIES_MEGABYTES,
                "rows": [] if quick else extra_memory(benchmark.start),
            },
        }


def _timed(select: Select, x: Tensor) -> tuple[Result, float]:
    start = perf_counter()
    result = select(x)
    return result, perf_counter() - start


def rounds_for(seconds: float, sampling_seconds: float = SAMPLING_SECONDS) -> int:
    """How many calls to time, if one takes ``seconds``."""
    return min(MOST_ROUNDS, max(LEAST_ROUNDS, int(sampling_seconds / max(seconds, 1e-9))))


@dataclass(frozen=True)
class Rates:
    """What the processor reaches: a large matrix product of the dtype, and streaming through x."""

    operations_per_second: float
    bytes_per_second: float


def pairs(method: str, count: int, k: int) -> int:
    """The pairs of N rows whose similarity every exact method that goes by similarities needs.

    A pick's score depends on each pick before it: ``k (k - 1) / 2`` pairs. DivPrune's first pick is known only by its
    similarity to all N - 1 others, which include the k - 1 later picks. What proves that the other rows are not
    picked is left out: how few pairs do that depends on the input.
    """
    among_picks = k * (k - 1) // 2
    if METHODS[method].weight is not None or k == 0:
        return among_picks
    return among_picks + count - k


def bound(
    method: str, counts: tuple[int, ...], ks: tuple[int, ...], depth: int, element_size: int, rates: Rates
) -> float:
    """The least seconds for a batch: for each item one read, or ``2 D`` operations a pair, whichever takes longer.

    One read, because every element decides whether its row is finite. Norms, writing and choosing are left out.
    """
    return sum(
        max(
            2 * depth * pairs(method, count, k) / rates.operations_per_second,
            count * depth * element_size / rates.bytes_per_second,
        )
        for count, k in zip(counts, ks, strict=True)
    )


def rates(x: Tensor) -> Rates:
    """What x can be multiplied and read at."""
    return Rates(product_rate(x.dtype), read_rate(x))


@functools.cache
def product_rate(dtype: torch.dtype) -> float:
    """Operations per second of a product of two 2048 x 2048 matrices."""
    a, b = (torch.randn(EDGE, EDGE, generator=torch.Generator().manual_seed(seed)).to(dtype) for seed in (0, 1))
    return 2 * EDGE**3 / _least_seconds(lambda: a @ b, PRODUCTS)


def read_rate(x: Tensor) -> float:
    """Bytes per second of a sum over x, taken as float32 values so that no conversion slows it down."""
    values = x.contiguous().view(torch.float32)
    return x.nbytes / _least_seconds(values.sum, READS)


def _least_seconds(run: Callable[[], object], runs: int) -> float:
    run()
    seconds = []
    for _ in range(runs):
        start = perf_counter()
        run()
        seconds.append(perf_counter() - start)
    return min(seconds)


def extra_memory(start: Callable[[str], bool]) -> list[dict[str, Any]]:
    """The megabytes that DivPrune and IDPruner take beside their tokens, as far as there is time."""
    entries = []
    for method in ("divprune", "idpruner"):
        for dtype in (str(dtype).removeprefix("torch.") for dtype in DTYPES):
            if not start(f"memory of {method} {dtype}"):
                continue
            entry = {"method": method, "dtype": dtype, "megabytes": None, "note": ""}
            try:
                entry["megabytes"] = memory.extra_megabytes(method, dtype)
            except subprocess.SubprocessError as error:
                entry["note"] = described(error)
            entries.append(entry)
    return entries


def machine() -> dict[str, Any]:
    """The processor and the versions that the numbers belong to."""
    return {
        "processor": processor(),
        "threads": torch.get_num_threads(),
        "isa": tokenprune_kernels.build_info()["backends"]["native"]["isa"],
        "depth": DIMENSIONS,
        "product_gigaflops": {str(dtype).removeprefix("torch."): 1e-9 * product_rate(dtype) for dtype in DTYPES},
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numpy": metadata.version("numpy"),
            **{name: version for name in PACKAGES if (version := _version(name))},
        },
    }


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""


def table(result: dict[str, Any]) -> str:
    """The result in Markdown."""
    rows = tables.rows_of(result)
    lines = tables.operators(rows)
    lines += ["", _memory_sentence(result["memory"]), "", _machine_sentence(result["machine"])]
    return "\n".join([*lines, *tables.left_out(rows, result["not_started"])])


def _memory_sentence(measured: dict[str, Any]) -> str:
    entries = [
        f"`{each['method']}` {each['dtype']} {number(each['megabytes'])} MB"
        + (f" ({each['note']})" if each["note"] else "")
        for each in measured["rows"]
    ]
    return (
        f"Peak extra memory at N = {measured['count']:,}, D = {measured['depth']:,}, k = {measured['k']:,}: "
        f"{', '.join(entries) or 'not measured'}; a float32 similarity matrix takes "
        f"{number(measured['similarities_megabytes'])} MB."
    )


def _machine_sentence(machine: dict[str, Any]) -> str:
    reached = ", ".join(f"{name} {number(rate)} GFLOP/s" for name, rate in machine["product_gigaflops"].items())
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    return (
        f"Milliseconds, D = {machine['depth']:,}; photographs of scikit-image, their 14 x 14 patches times a seeded "
        f"Gaussian matrix. {machine['processor']}, {machine['threads']} threads, "
        f"`{machine['isa']}`; a large product reaches {reached}. {versions}."
    )
