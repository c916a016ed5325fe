"""A CUDA device: its timer, the stages of a selection, and how they compare with what is predicted.

The time of a call is that of one sweep over copies of the input that together exceed the L2 cache twice, divided by
the number of copies. Sweeps are captured in a CUDA graph and replayed where the row says so.
"""

from __future__ import annotations

import contextlib
import itertools
import platform
import subprocess
import time
from collections.abc import Callable, Iterable
from typing import Any

import torch
import triton
from torch import Tensor

from bench import roofline, tables
from bench.cases import Case, Task, cuda_cases, quick_cuda_cases
from bench.devices.stages import DPP, candidate_count, launches_up_to, stages_of
from bench.files import described
from bench.inputs import PACKED, Tokens
from bench.markdown import number
from bench.measure import Benchmark, Result
from bench.peers import CUDA_PEERS, OPERATOR, PRODUCT, Implementation, Select
from bench.row import Row
from bench.times import Times

WARM_UP_SECONDS = 0.1
SAMPLING_SECONDS = 0.4
LEAST_SAMPLES, MOST_SAMPLES = 5, 50
GRAPH, EAGER = "CUDA graph", "eager"
MICROSECONDS = 1e3
LAZY_GREEDY = "lazy greedy rounds"


class Cuda:
    """Events and graphs of the current CUDA device."""

    name = "cuda"
    type = "cuda"
    budget_seconds = 230.0
    cases_before_compiled = 8
    again_seconds = 0.0
    compilation_seconds = 60.0

    def __init__(self) -> None:
        self._copies: list[Tensor] = []

    def cases(self, quick: bool) -> list[Case]:
        return quick_cuda_cases() if quick else cuda_cases()

    def peers(self) -> Iterable[Implementation]:
        return CUDA_PEERS

    def ways(self, implementation: Implementation) -> tuple[str, ...]:
        return (GRAPH,) if implementation in (OPERATOR, PRODUCT) else (EAGER, GRAPH)

    def time(
        self, select: Select, x: Tensor, how: str, seconds: float | None = None
    ) -> tuple[list[Result], list[float]]:
        """Runs sweeps until the clocks have risen, then takes as many samples as there is time for."""
        copies, outputs = self.copies(x), []
        first = select(x)  # compiles what has to be before a capture

        def sweep() -> None:
            outputs[:] = [select(copy) for copy in copies]

        run = self.capture(sweep) if how == GRAPH else sweep
        samples = self.sampled(run, SAMPLING_SECONDS if seconds is None else seconds)
        return [first, *outputs], [sample / len(copies) for sample in samples]

    def copies(self, x: Tensor) -> list[Tensor]:
        """The tokens and copies of them that together exceed the cache twice; kept for the next call."""
        if not self._copies or self._copies[0] is not x:
            self._copies = []  # frees those of the input before
            self._copies = [x, *(x.clone() for _ in range(copies_for(x.nbytes, self.cache_bytes()) - 1))]
        return self._copies

    def sampled(self, run: Callable[[], object], seconds: float) -> list[float]:
        """The milliseconds of runs."""
        start = time.perf_counter()
        for runs in itertools.count(1):
            run()
            self.synchronize()
            elapsed = time.perf_counter() - start
            if elapsed >= WARM_UP_SECONDS or runs >= 10_000:
                break
        return self.samples(run, min(MOST_SAMPLES, max(LEAST_SAMPLES, int(seconds * runs / max(elapsed, 1e-9)))))

    def samples(self, run: Callable[[], object], count: int) -> list[float]:
        """The milliseconds of each of ``count`` runs."""
        events = [(torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)) for _ in range(count)]
        for start, end in events:
            start.record()
            run()
            end.record()
        self.synchronize()
        return [start.elapsed_time(end) for start, end in events]

    def capture(self, run: Callable[[], object]) -> Callable[[], object]:
        """Something that repeats the work of a run on the device alone."""
        # A synchronisation is found out here: inside a capture it would leave the process in an unknown state.
        torch.cuda.set_sync_debug_mode("error")
        try:
            run()
        finally:
            torch.cuda.set_sync_debug_mode("default")
        graph, stream = torch.cuda.CUDAGraph(), torch.cuda.current_stream()
        try:
            with torch.cuda.graph(graph):
                run()
        finally:
            torch.cuda.set_stream(stream)  # a capture that fails stays on its own stream
        return graph.replay

    def synchronize(self) -> None:
        torch.cuda.synchronize()

    def cache_bytes(self) -> int:
        return torch.cuda.get_device_properties(torch.cuda.current_device()).L2_cache_size

    def modelled(self) -> roofline.Gpu:
        """The device of the model that comes nearest."""
        return roofline.gpu_named(torch.cuda.get_device_name())

    def explain(self, row: Row, given: Task, select: Select) -> None:
        """The stages, the rates of the one that compares rows, and what the device is predicted to take.

        A stage's time is the difference between the medians of the operator cut short after it and before it.
        """
        stages = stages_of(given)
        try:
            taken = self._stages(row, given.x, select, stages)
        except Exception as error:
            row.note = f"no stages: {described(error)}"
            return
        row.details = {"stages": taken}
        if stages == DPP:
            return  # not modelled
        lazy_greedy = LAZY_GREEDY in stages
        sizes = given.tokens, given.x.itemsize, lazy_greedy, self.modelled()
        row.bound = bound(*sizes) / MICROSECONDS
        row.details["predicted_stages"] = predicted_stages(row.method, *sizes)
        comparing = taken[LAZY_GREEDY if lazy_greedy else "similarity pass"]
        if comparing > 0:
            operations, moved = least_work(given.tokens, given.x.itemsize, lazy_greedy)
            row.details["teraflops"] = 1e-9 * operations / comparing
            row.details["gigabytes_per_second"] = 1e-6 * moved / comparing

    def _stages(self, row: Row, x: Tensor, select: Select, stages: dict[str, str]) -> dict[str, float]:
        taken, before = {}, 0.0
        for stage, kernel in stages.items():
            if stage == list(stages)[-1]:
                until = row.times.median
            else:
                with launches_up_to(kernel, stages):
                    _, milliseconds = self.time(select, x, GRAPH)
                until = Times.of(milliseconds).median
            taken[stage] = until - before
            before = until
        return taken

    def surroundings(self, benchmark: Benchmark, quick: bool) -> dict[str, Any]:
        """The device and the versions that the numbers belong to, and what the device reaches."""
        properties = torch.cuda.get_device_properties(torch.cuda.current_device())
        machine = {
            "processor": properties.name,
            "multiprocessors": properties.multi_processor_count,
            "l2_bytes": properties.L2_cache_size,
            "driver": next(iter(queried("driver_version")), None),
            "cuda": torch.version.cuda,
            "torch": torch.__version__,
            "triton": triton.__version__,
            "python": platform.python_version(),
        }
        return {"machine": machine, "ceilings": self.ceilings()}

    def ceilings(self) -> dict[str, Any]:
        """What the device reaches in a large bfloat16 product and a large copy, and its clocks during products."""
        a, b = (torch.randn(8_192, 8_192, dtype=torch.bfloat16, device="cuda") for _ in range(2))
        multiplied = Times.of(self.sampled(lambda: a @ b, SAMPLING_SECONDS)).median
        source = torch.empty(2**31, dtype=torch.uint8, device="cuda").random_()
        target = torch.empty_like(source)
        copied = Times.of(self.sampled(lambda: target.copy_(source), SAMPLING_SECONDS)).median
        for _ in range(800):  # about a second of work, during which the clocks are read
            a @ b
        clocks = queried("clocks.sm", "clocks.mem", "clocks.max.sm")
        self.synchronize()
        return {
            "bfloat16_product_teraflops": 2e-9 * 8_192**3 / multiplied,
            "copy_gigabytes_per_second": 2e-6 * source.nbytes / copied,
            "clocks_megahertz": dict(
                zip(("multiprocessors", "memory", "multiprocessors_at_most"), clocks, strict=False)
            ),
        }


def copies_for(tensor_bytes: int, cache_bytes: int) -> int:
    """How many copies of an input exceed a cache twice; at least two, so that no call finds its own input there."""
    return max(2, 2 * cache_bytes // tensor_bytes + 1)


def bound(tokens: Tokens, element_size: int, lazy_greedy: bool, gpu: roofline.Gpu = roofline.H200) -> float:
    """The least microseconds of a selection, in either form."""
    sizes = (tokens.counts, tokens.ks, tokens.depth)
    if not lazy_greedy:
        return roofline.selection_bound(*sizes, element_size, gpu)
    return roofline.candidate_bound(*sizes, candidate_count(element_size, tokens.longest), element_size, gpu)


def least_work(tokens: Tokens, element_size: int, lazy_greedy: bool) -> tuple[int, int]:
    """The fewest operations and bytes of the stage that compares rows: all pairs of them, or each with every pick."""
    counts, depth = tokens.counts, tokens.depth
    if not lazy_greedy:
        operations = sum(roofline.similarity_operations(count, depth) for count in counts)
        return operations, sum(roofline.similarity_bytes(count, depth, element_size) for count in counts)
    items = zip(counts, tokens.ks, strict=True)
    operations = sum(roofline.candidate_operations(count, k, depth) for count, k in items)
    return operations, sum(counts) * depth * element_size


def predicted_stages(
    method: str, tokens: Tokens, element_size: int, lazy_greedy: bool, gpu: roofline.Gpu = roofline.H200
) -> dict[str, float] | None:
    """What the stages are modelled to take, in milliseconds; None where that is not modelled."""
    sizes, items = (tokens.counts[0], tokens.ks[0], tokens.depth), len(tokens.counts)
    if not lazy_greedy and tokens.layout != PACKED:
        stages = roofline.materialised_stages(*sizes, element_size, items=items, gpu=gpu)
    elif items > 1:
        return None
    else:
        stages = roofline.candidate_stages(method, *sizes, candidate_count(element_size, sizes[0]), element_size, gpu)
    return {stage: microseconds / MICROSECONDS for stage, microseconds in stages.items()}


def queried(*names: str) -> list[str]:
    """What the driver's tool says about the first device; nothing where it is missing."""
    command = ["nvidia-smi", f"--query-gpu={','.join(names)}", "--format=csv,noheader,nounits"]
    with contextlib.suppress(OSError, subprocess.SubprocessError, IndexError):
        answer = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout
        return [value.strip() for value in answer.splitlines()[0].split(",")]
    return []


def table(result: dict[str, Any]) -> str:
    """The result in Markdown, in microseconds."""
    rows = tables.rows_of(result)
    products = {
        (row.size, row.dtype): row.times.median for row in rows if row.implementation == PRODUCT.name and row.times
    }

    def stages(which: str) -> Callable[[Row], str]:
        def cell(row: Row) -> str:
            taken = (row.details.get(which) or {}).items()
            return " + ".join(f"{stage} {number(MICROSECONDS * value)}" for stage, value in taken) or "-"

        return cell

    def product(row: Row) -> str:
        median = products.get((row.size, row.dtype))
        return number(None if median is None else MICROSECONDS * median)

    more = (
        ("stages", stages("stages")),
        ("predicted", stages("predicted_stages")),
        ("comparing rows: TFLOP/s", lambda row: number(row.details.get("teraflops"))),
        ("GB/s", lambda row: number(row.details.get("gigabytes_per_second"))),
        (f"`{PRODUCT.name}`", product),
    )
    machine, reached = result["machine"], result["ceilings"]
    modelled = roofline.gpu_named(machine["processor"])
    sentence = (
        f"Microseconds; bound and prediction are those of an {modelled.name}. {machine['processor']}, "
        f"{reached['clocks_megahertz'].get('multiprocessors', '-')} MHz under load, "
        f"driver {machine['driver']}, CUDA {machine['cuda']}, torch {machine['torch']}, triton {machine['triton']}; "
        f"a large bfloat16 product reaches {number(reached['bfloat16_product_teraflops'])} TFLOP/s, "
        f"a copy {number(reached['copy_gigabytes_per_second'])} GB/s."
    )
    lines = tables.operators(rows, MICROSECONDS, more)
    return "\n".join([*lines, "", sentence, *tables.left_out(rows, result["not_started"])])
