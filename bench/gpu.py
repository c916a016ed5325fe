"""The operators on a GPU beside what users run today: times, rates and bounds.

Run from the root of the source tree: ``python -m bench.gpu``. Writes ``bench/results/DEVICE.json``, prints Markdown and
puts its first table into README.md. ``--render FILE`` does the latter two from such a file, without a GPU.

A time is that of one call: the events around one sweep over copies of the input that together exceed the L2 cache
twice, divided by the number of copies. Sweeps are captured in a CUDA graph and replayed where the table says so. The
operators are timed only if the float64 replay accepts what they picked and every timed call picked the same.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import itertools
import json
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol
from unittest import mock

import torch
import triton
from torch import Tensor

import tokenprune_kernels  # noqa: F401  registers torch.ops.tokenprune
from bench import gate, roofline
from bench.budget import Budget
from bench.child import output_within
from bench.markdown import heading, line, number, put_between
from bench.result_file import described, file_name
from python_ref import published

ROOT = Path(__file__).parent.parent
BEGIN, END = "<!-- gpu table begin -->", "<!-- gpu table end -->"

LAM = 0.5
BUDGET_SECONDS = 230.0
WARM_UP_SECONDS = 0.1
SAMPLING_SECONDS = 0.4
LEAST_SAMPLES, MOST_SAMPLES = 5, 50
COMPILATION_SECONDS = 60.0

GRAPH, EAGER = "CUDA graph", "eager"
COMPILED, COMPILED_GRAPH = "torch.compile", "torch.compile, CUDA graph"
OPERATOR, PRODUCT = "tokenprune", "x @ x.T alone"

DIVPRUNE_PEERS: dict[str, Callable[..., Tensor]] = {
    "published DivPrune loop": published.published_divprune,
    "running-minimum loop": published.running_minimum_divprune,
    "running-minimum loop in float32": lambda x, k: published.running_minimum_divprune(x.float(), k),
}
IDPRUNER_PEERS: dict[str, Callable[..., Tensor]] = {
    "published IDPruner loop": lambda x, weight, k: published.published_idpruner(x, weight, k, LAM),
}
PEERS = {"divprune": DIVPRUNE_PEERS, "idpruner": IDPRUNER_PEERS, "mmr": {}}

# Only on the first case: the compiler unrolls these loops, all k steps of them.
COMPILED_PEERS = {
    "published DivPrune loop": "divprune",
    "published IDPruner loop": "idpruner",
    "running-minimum loop": "divprune",
}

# The kernels whose launches end each stage of a form; what comes before the first is counted into it.
MATERIALISED = {"row norms": "row_norm_kernel", "similarity pass": "similarity_kernel", "greedy loop": "greedy_kernel"}
STAGES = {
    "materialised": MATERIALISED,
    "divprune": {
        "row norms": "row_norm_kernel",
        "first pick": "outlier_kernel",
        "candidate blocks": "lazy_greedy_kernel",
    },
    "mmr": {
        "row norms": "row_norm_kernel",
        "first pick": "first_pick_kernel",
        "candidate blocks": "lazy_greedy_kernel",
    },
}
STAGES["idpruner"] = STAGES["mmr"]

Select = Callable[[Tensor], list[Tensor]]
"""From tokens to the picks of each item, int64 ``[k]``, counted from the item's first row."""


@dataclass(frozen=True)
class Case:
    """A batch: the rows of each item, how many of them are kept, and whether the items are packed."""

    counts: tuple[int, ...]
    kept: tuple[int, ...]
    depth: int
    dtype: torch.dtype
    packed: bool = False

    @classmethod
    def dense(cls, items: int, count: int, depth: int, k: int, dtype: torch.dtype) -> Case:
        """Items of one size."""
        return cls((count,) * items, (k,) * items, depth, dtype)

    @classmethod
    def ragged(cls, counts: tuple[int, ...], depth: int, dtype: torch.dtype) -> Case:
        """Packed segments, a tenth of each to be kept."""
        return cls(counts, tuple(count // 10 for count in counts), depth, dtype, packed=True)

    @property
    def tokens(self) -> str:
        """The sizes in words."""
        if self.packed:
            sizes = f"{min(self.counts):,} to {max(self.counts):,}"
            return f"{len(self.counts)} packed segments of {sizes} x {self.depth:,}, k = 10 %"
        items = f"{len(self.counts)} x " if len(self.counts) > 1 else ""
        return f"{items}{self.counts[0]:,} x {self.depth:,}, k = {self.kept[0]}"

    @property
    def leading(self) -> tuple[int, ...]:
        """The shape of the tokens without D."""
        if self.packed:
            return (sum(self.counts),)
        return (len(self.counts), self.counts[0]) if len(self.counts) > 1 else (self.counts[0],)

    def items(self, tensor: Tensor) -> list[Tensor]:
        """Views of the items' rows, or of their weights."""
        if self.packed:
            return list(tensor.split(self.counts))
        return list(tensor) if len(self.counts) > 1 else [tensor]

    def picks(self, indices: Tensor) -> list[Tensor]:
        """The picks of each item in an operator's result."""
        if not self.packed:
            return self.items(indices)
        starts = itertools.accumulate(self.counts, initial=0)
        return [picks - start for picks, start in zip(indices.split(self.kept), starts, strict=False)]


RAGGED = (256, 1_024, 576, 2_880, 400, 1_296, 729, 2_304)
# The most telling ones first: there may not be time for all.
BFLOAT16_CASES = (
    Case.dense(1, 576, 4_096, 58, torch.bfloat16),
    Case.dense(1, 2_880, 4_096, 288, torch.bfloat16),
    Case.dense(1, 16_384, 4_096, 1_638, torch.bfloat16),
    Case.dense(64, 576, 4_096, 58, torch.bfloat16),
    Case.ragged(RAGGED, 3_584, torch.bfloat16),
    Case.dense(1, 8_192, 3_584, 820, torch.bfloat16),
    Case.dense(1, 24_209, 3_584, 2_421, torch.bfloat16),  # a long video
    Case.dense(1, 7_290, 3_584, 729, torch.bfloat16),  # LLaVA-OneVision
    Case.dense(1, 3_328, 3_584, 333, torch.bfloat16),  # InternVL: 13 tiles of 256
    Case.dense(13, 256, 3_584, 26, torch.bfloat16),
    Case.dense(1, 1_152, 4_096, 115, torch.bfloat16),  # LLaVA-NeXT-Video: 144 tokens a frame
    Case.dense(1, 9_216, 4_096, 922, torch.bfloat16),
    Case.dense(1, 2_340, 4_096, 160, torch.bfloat16),  # LLaVA-NeXT
    Case.dense(1, 2_880, 4_096, 640, torch.bfloat16),
    Case.dense(1, 576, 5_120, 192, torch.bfloat16),  # LLaVA-1.5-13B
    Case.dense(1, 1_296, 3_584, 324, torch.bfloat16),  # Qwen2.5-VL
    *(Case.dense(items, 576, 4_096, 58, torch.bfloat16) for items in (4, 8, 32)),
    Case.dense(1, 65_536, 4_096, 6_553, torch.bfloat16),
    Case.dense(1, 16_384, 3_584, 4_096, torch.bfloat16),  # Qwen2.5-VL at its largest, a quarter
    Case.dense(1, 256, 3_584, 64, torch.bfloat16),
    Case.ragged(tuple(range(256, 1_280, 16)), 3_584, torch.bfloat16),
)
OTHER_CASES = (
    *(
        Case.dense(1, *sizes, dtype)
        for sizes in ((576, 4_096, 58), (2_880, 4_096, 288))
        for dtype in (torch.float16, torch.float32)
    ),
    Case.dense(64, 576, 4_096, 58, torch.float16),
    Case.dense(1, 8_192, 3_584, 820, torch.float32),
    Case.ragged(RAGGED, 3_584, torch.float32),
)
QUICK_CASES = BFLOAT16_CASES[:1]


@dataclass(frozen=True)
class Times:
    """Microseconds of one call."""

    median: float
    least: float
    p25: float
    p75: float
    samples: int

    @classmethod
    def of(cls, samples: Sequence[float], calls: int) -> Times:
        """From the microseconds of sweeps of so many calls."""
        each = [sample / calls for sample in samples]
        p25, median, p75 = statistics.quantiles(each, n=4, method="inclusive")
        return cls(median, min(each), p25, p75, len(each))


@dataclass
class Row:
    """One implementation on one case; its fields are those of the JSON file.

    Attributes:
        how: how it was called.
        correct: whether the float64 replay accepts its picks; None for what picks nothing, or was not run.
        note: why there is no time, or what is wrong with the picks.
        times: of one call.
        stages: the differences between the medians of the operator cut short after each stage.
        teraflops: ``2 N^2 D`` over the similarity pass, or ``2 N k D`` over the candidate blocks.
        gigabytes_per_second: over the same stage, reading x once, and writing the similarities once if they are.
        h200_bound: the microseconds that an H200 takes at least in the form that ran (``bench.roofline``).
        h200_stages: what an H200 is predicted to take in each stage of the form that ran; None for packed
            segments, and for candidate blocks in a batch.
        fastest_correct_peer: the implementation among the others with the smallest median, and how it was called.
        ratio: its median over this one.
    """

    tokens: str
    dtype: str
    method: str
    implementation: str
    how: str
    correct: bool | None = None
    note: str = ""
    times: Times | None = None
    stages: dict[str, float] | None = None
    teraflops: float | None = None
    gigabytes_per_second: float | None = None
    h200_bound: float | None = None
    h200_stages: dict[str, float] | None = None
    fastest_correct_peer: str | None = None
    ratio: float | None = None


class Timer(Protocol):
    """What measures on a device."""

    def samples(self, run: Callable[[], object], count: int) -> list[float]:
        """The microseconds of so many runs."""

    def capture(self, run: Callable[[], object]) -> Callable[[], object]:
        """Something that repeats the work of a run on the device alone."""

    def synchronize(self) -> None:
        """Waits for the device."""


class CudaTimer:
    """Events and graphs of the current CUDA device."""

    def samples(self, run: Callable[[], object], count: int) -> list[float]:
        events = [(torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)) for _ in range(count)]
        for start, end in events:
            start.record()
            run()
            end.record()
        self.synchronize()
        return [1e3 * start.elapsed_time(end) for start, end in events]

    def capture(self, run: Callable[[], object]) -> Callable[[], object]:
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


def copies_for(tensor_bytes: int, cache_bytes: int) -> int:
    """How many copies of an input exceed a cache twice; at least two, so that no call finds its own input there."""
    return max(2, 2 * cache_bytes // tensor_bytes + 1)


def timed(run: Callable[[], object], calls: int, timer: Timer) -> Times:
    """Runs until the clocks have risen, then takes as many samples as there is time for."""
    start = time.perf_counter()
    for runs in itertools.count(1):
        run()
        timer.synchronize()
        elapsed = time.perf_counter() - start
        if elapsed >= WARM_UP_SECONDS or runs >= 10_000:
            break
    count = min(MOST_SAMPLES, max(LEAST_SAMPLES, int(SAMPLING_SECONDS * runs / max(elapsed, 1e-9))))
    return Times.of(timer.samples(run, count), calls)


def make_tokens(case: Case, device: str) -> tuple[Tensor, Tensor]:
    """Seeded tokens with a common direction and 32 clusters, as the tokens of a picture have, and a weight for each."""
    generator = torch.Generator(device).manual_seed(0)
    centres = 1.0 + torch.randn(32, case.depth, generator=generator, device=device)
    cluster = torch.randint(32, case.leading, generator=generator, device=device)
    x = centres[cluster] + torch.randn(*case.leading, case.depth, generator=generator, device=device)
    return x.to(case.dtype), torch.rand(case.leading, generator=generator, device=device)


def operator(case: Case, method: str, weight: Tensor) -> Callable[[Tensor], Tensor]:
    """The operator's call: from tokens to indices as it returns them."""
    weights = () if method == "divprune" else (weight,)
    lams = () if method == "divprune" else (LAM,)
    if not case.packed:
        select = getattr(torch.ops.tokenprune, method).default
        return lambda x: select(x, *weights, case.kept[0], *lams)
    sums = [
        torch.tensor(list(itertools.accumulate(counts, initial=0)), dtype=torch.int32, device=weight.device)
        for counts in (case.counts, case.kept)
    ]
    packed = getattr(torch.ops.tokenprune, f"{method}_varlen").default
    return lambda x: packed(x, *weights, *sums, sum(case.kept), max(case.counts), *lams)


def peer(case: Case, method: str, weight: Tensor, loop: Callable[..., Tensor]) -> Select:
    """A published loop's calls, one item after the other."""
    weights = case.items(weight)

    def select(x: Tensor) -> list[Tensor]:
        if method == "divprune":
            return [loop(item, k) for item, k in zip(case.items(x), case.kept, strict=True)]
        return [loop(item, w, k) for item, w, k in zip(case.items(x), weights, case.kept, strict=True)]

    return select


def product(case: Case) -> Callable[[Tensor], object]:
    """A matrix product of the size of the similarity pass."""
    if case.packed:
        return lambda x: [item @ item.mT for item in case.items(x)]
    return lambda x: x @ x.mT


def mistake(case: Case, method: str, x: Tensor, weight: Tensor, picks: Sequence[Tensor]) -> str:
    """What the float64 replay finds wrong with the picks of each item; empty when they are right."""
    for position, (rows, w, indices, k) in enumerate(
        zip(case.items(x.cpu()), case.items(weight.cpu()), picks, case.kept, strict=True)
    ):
        wrong = gate.mistake(method, rows, indices, k, w, LAM)
        if wrong:
            return f"item {position}: {wrong}"
    return ""


def stages_of(method: str, call: Callable[[], object]) -> dict[str, str]:
    """The stages of the form in which a call selects, told by the kernels that it launches."""
    from tokenprune_kernels.backends.triton import runtime

    launched: list[str] = []
    with mock.patch.object(runtime, "launch", lambda kernel, *args, **options: launched.append(kernel.__name__)):
        call()
    return STAGES[method] if "lazy_greedy_kernel" in launched else MATERIALISED


@contextlib.contextmanager
def launches_up_to(last: str, stages: dict[str, str]) -> Iterator[None]:
    """Leaves out the launches of the kernels after the given one; what these would have written is not written."""
    from tokenprune_kernels.backends.triton import runtime

    later = list(stages.values())[list(stages.values()).index(last) + 1 :]
    run = runtime.launch

    def run_unless_later(kernel: Any, *args: Any, **options: Any) -> None:
        if kernel.__name__ not in later:
            run(kernel, *args, **options)

    with mock.patch.object(runtime, "launch", run_unless_later):
        yield


def bound(case: Case, candidate_blocks: bool) -> float:
    """The least microseconds of a case on an H200, in either form."""
    from tokenprune_kernels.backends.triton import configs

    sizes, element_size = (case.counts, case.kept, case.depth), case.dtype.itemsize
    if not candidate_blocks:
        return roofline.selection_bound(*sizes, element_size)
    return roofline.candidate_bound(*sizes, configs.candidate_count(element_size, max(case.counts)), element_size)


def least_work(case: Case, candidate_blocks: bool) -> tuple[int, int]:
    """The fewest operations and bytes of the stage that compares rows: all pairs of them, or each with every pick."""
    element_size = case.dtype.itemsize
    if not candidate_blocks:
        operations = sum(roofline.similarity_operations(count, case.depth) for count in case.counts)
        return operations, sum(roofline.similarity_bytes(count, case.depth, element_size) for count in case.counts)
    items = zip(case.counts, case.kept, strict=True)
    operations = sum(roofline.candidate_operations(count, k, case.depth) for count, k in items)
    return operations, sum(case.counts) * case.depth * element_size


def predicted_stages(method: str, case: Case, candidate_blocks: bool) -> dict[str, float] | None:
    """What the stages are modelled to take on an H200, in microseconds; None where that is not modelled."""
    from tokenprune_kernels.backends.triton import configs

    sizes, items = (case.counts[0], case.kept[0], case.depth), len(case.counts)
    if not candidate_blocks and not case.packed:
        return roofline.materialised_stages(*sizes, case.dtype.itemsize, items=items)
    if items > 1:
        return None
    candidates = configs.candidate_count(case.dtype.itemsize, case.counts[0])
    return roofline.candidate_stages(method, *sizes, candidates, case.dtype.itemsize)


class Benchmark:
    """The rows of a result, and what they are measured with."""

    def __init__(
        self, timer: Timer, device: str, cache_bytes: int, budget: Budget, report: Callable[[str], None]
    ) -> None:
        self.timer = timer
        self.device = device
        self.cache_bytes = cache_bytes
        self.budget = budget
        self.report = report
        self.rows: list[Row] = []
        self.not_started: list[str] = []
        self.mistakes: dict[tuple[Case, str, str], str] = {}

    def start(self, name: str) -> bool:
        """Whether there is time for one more row."""
        if self.budget.left() <= 0:
            self.not_started.append(name)
            return False
        self.report(f"{name} ({self.budget.left():.0f} s left)")
        return True

    def measure(self, case: Case, methods: Iterable[str]) -> None:
        """The operators on a case, the product alone, and their peers."""
        dtype = str(case.dtype).removeprefix("torch.")
        name = f"{case.tokens}, {dtype}"
        if not self.start(name):
            return
        try:
            x, weight = make_tokens(case, self.device)
            copies = [x, *(x.clone() for _ in range(copies_for(x.nbytes, self.cache_bytes) - 1))]
        except Exception as error:
            self.rows.append(Row(case.tokens, dtype, "", "inputs", "", note=described(error)))
            return
        right: dict[str, list[Tensor]] = {}
        for method in methods:
            if self.start(f"{name}: {method}"):
                row = Row(case.tokens, dtype, method, OPERATOR, GRAPH)
                self.rows.append(row)
                picks = self._attempt(row, lambda row, m=method: self._operator(row, case, m, copies, weight))
                if picks is not None:
                    right[method] = picks
        if self.start(f"{name}: {PRODUCT}"):
            row = Row(case.tokens, dtype, "", PRODUCT, GRAPH)
            self.rows.append(row)
            self._attempt(row, lambda row: self._time(row, product(case), copies, captured=True))
        for method in methods:
            for title, loop in PEERS[method].items():
                if case.dtype == torch.float32 and title.endswith("in float32"):
                    continue
                select = peer(case, method, weight, loop)
                for how in (EAGER, GRAPH):
                    if self.start(f"{name}: {title}, {how}"):
                        row = Row(case.tokens, dtype, method, title, how)
                        self.rows.append(row)
                        self._attempt(
                            row,
                            lambda row, m=method, s=select: self._peer(row, case, m, s, copies, weight, right.get(m)),
                        )

    def measure_compiled(self, case: Case, method: str, title: str) -> None:
        """A peer under torch.compile, in this process."""
        dtype = str(case.dtype).removeprefix("torch.")
        x, weight = make_tokens(case, self.device)
        copies = [x, *(x.clone() for _ in range(copies_for(x.nbytes, self.cache_bytes) - 1))]
        loop = torch.compile(PEERS[method][title], dynamic=False)
        for how in (COMPILED, COMPILED_GRAPH):
            row = Row(case.tokens, dtype, method, title, how)
            self.rows.append(row)
            select = peer(case, method, weight, loop)
            self._attempt(row, lambda row, s=select: self._peer(row, case, method, s, copies, weight, None))
            breaks = torch._dynamo.utils.counters["graph_break"]
            if breaks and not row.note:
                row.note = f"not compiled as a whole: {next(iter(breaks)).splitlines()[0]}"

    def compiled_elsewhere(self, case: Case, method: str, title: str, command: Sequence[str]) -> None:
        """The rows of ``measure_compiled`` from a process of its own, which can be stopped."""
        dtype = str(case.dtype).removeprefix("torch.")
        if not self.start(f"{case.tokens}, {dtype}: {title}, {COMPILED}"):
            return
        seconds = min(COMPILATION_SECONDS, self.budget.left())
        try:
            answer = json.loads(output_within(seconds, command).splitlines()[-1])
            self.rows += [Row(**{**row, "times": row["times"] and Times(**row["times"])}) for row in answer]
        except (subprocess.SubprocessError, OSError, ValueError, IndexError) as error:
            timeout = isinstance(error, subprocess.TimeoutExpired)
            note = f"not compiled within {seconds:.0f} s" if timeout else described(error)
            self.rows.append(Row(case.tokens, dtype, method, title, COMPILED, note=note))

    def _attempt(self, row: Row, fill: Callable[[Row], Any]) -> Any:
        """Fills a row; what goes wrong becomes its note, and None comes back."""
        try:
            return fill(row)
        except Exception as error:
            row.times, row.stages, row.note = None, None, described(error)
            return None

    def _operator(self, row: Row, case: Case, method: str, copies: list[Tensor], weight: Tensor) -> list[Tensor] | None:
        call = operator(case, method, weight)
        expected = call(copies[0])
        row.note = mistake(case, method, copies[0], weight, case.picks(expected))
        row.correct = not row.note
        candidate_blocks = "candidate blocks" in stages_of(method, lambda: call(copies[0]))
        row.h200_bound = bound(case, candidate_blocks)
        if not row.correct:
            return None
        outputs = self._time(row, call, copies, captured=True)
        if gate.changed(outputs, expected):
            row.times, row.correct, row.note = None, False, "the timed calls picked otherwise than the checked one"
            return None
        try:
            row.stages = self._stages(row, call, copies)
        except Exception as error:
            row.note = f"no stages: {described(error)}"
            return case.picks(expected)
        row.h200_stages = predicted_stages(method, case, candidate_blocks)
        comparing = row.stages["candidate blocks" if candidate_blocks else "similarity pass"]
        if comparing > 0:
            operations, moved = least_work(case, candidate_blocks)
            row.teraflops, row.gigabytes_per_second = 1e-6 * operations / comparing, 1e-3 * moved / comparing
        return case.picks(expected)

    def _peer(
        self,
        row: Row,
        case: Case,
        method: str,
        select: Select,
        copies: list[Tensor],
        weight: Tensor,
        right: list[Tensor] | None,
    ) -> None:
        """Peers are timed right or wrong: users run them either way. What is wrong with their picks is noted."""
        picks = select(copies[0])
        replayed = (case, method, row.implementation)
        if right is not None and all(map(torch.equal, picks, right)):
            self.mistakes[replayed] = ""
        elif replayed not in self.mistakes:
            self.mistakes[replayed] = mistake(case, method, copies[0], weight, picks)
        row.correct = not self.mistakes[replayed]
        self._time(row, select, copies, captured=row.how in (GRAPH, COMPILED_GRAPH))
        row.note = self.mistakes[replayed]

    def _time(self, row: Row, call: Callable[[Tensor], Any], copies: list[Tensor], *, captured: bool) -> list[Any]:
        """Times a call over the copies, and returns the last results."""
        outputs: list[Any] = []

        def sweep() -> None:
            outputs[:] = [call(x) for x in copies]

        call(copies[0])
        row.times = timed(self.timer.capture(sweep) if captured else sweep, len(copies), self.timer)
        return outputs

    def _stages(self, row: Row, call: Callable[[Tensor], Any], copies: list[Tensor]) -> dict[str, float]:
        taken, before = {}, 0.0
        stages = stages_of(row.method, lambda: call(copies[0]))
        for stage, kernel in stages.items():
            cut = dataclasses.replace(row)
            if stage == list(stages)[-1]:
                cut = row
            else:
                with launches_up_to(kernel, stages):
                    self._time(cut, call, copies, captured=True)
            taken[stage] = cut.times.median - before
            before = cut.times.median
        return taken


def compare(rows: list[Row]) -> None:
    """Sets each operator against its fastest correct peer."""
    for row in rows:
        if row.implementation != OPERATOR or row.times is None:
            continue
        peers = [
            other
            for other in rows
            if (other.tokens, other.dtype, other.method) == (row.tokens, row.dtype, row.method)
            and other.implementation != OPERATOR
            and other.correct
            and other.times is not None
        ]
        if peers:
            fastest = min(peers, key=lambda other: other.times.median)
            row.fastest_correct_peer = f"{fastest.implementation}, {fastest.how}"
            row.ratio = fastest.times.median / row.times.median


def ceilings(timer: Timer) -> dict[str, Any]:
    """What the device reaches in a large bfloat16 product and a large copy, and its clocks during products."""
    a, b = (torch.randn(8_192, 8_192, dtype=torch.bfloat16, device="cuda") for _ in range(2))
    multiplied = timed(lambda: a @ b, 1, timer).median
    source = torch.empty(2**31, dtype=torch.uint8, device="cuda").random_()
    target = torch.empty_like(source)
    copied = timed(lambda: target.copy_(source), 1, timer).median
    for _ in range(800):  # about a second of work, during which the clocks are read
        a @ b
    clocks = queried("clocks.sm", "clocks.mem", "clocks.max.sm")
    timer.synchronize()
    return {
        "bfloat16_product_teraflops": 2e-6 * 8_192**3 / multiplied,
        "copy_gigabytes_per_second": 2e-3 * source.nbytes / copied,
        "clocks_megahertz": dict(zip(("multiprocessors", "memory", "multiprocessors_at_most"), clocks, strict=False)),
    }


def queried(*names: str) -> list[str]:
    """What the driver's tool says about the first device; nothing where it is missing."""
    command = ["nvidia-smi", f"--query-gpu={','.join(names)}", "--format=csv,noheader,nounits"]
    with contextlib.suppress(OSError, subprocess.SubprocessError, IndexError):
        answer = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout
        return [value.strip() for value in answer.splitlines()[0].split(",")]
    return []


def device_description() -> dict[str, Any]:
    """The device and the versions that the numbers belong to."""
    properties = torch.cuda.get_device_properties(torch.cuda.current_device())
    return {
        "name": properties.name,
        "multiprocessors": properties.multi_processor_count,
        "l2_bytes": properties.L2_cache_size,
        "driver": next(iter(queried("driver_version")), None),
        "cuda": torch.version.cuda,
        "torch": torch.__version__,
        "triton": triton.__version__,
        "python": platform.python_version(),
    }


def _median(row: dict[str, Any] | None) -> str:
    if row is None or row["times"] is None:
        return "-"
    return number(row["times"]["median"]) + (" (wrong)" if row["correct"] is False else "")


def summary(result: dict[str, Any]) -> str:
    """The operators, each on one line with its stages, bounds and peers."""
    rows = result["rows"]
    header = (
        "tokens",
        "dtype",
        "operator",
        "time (p25 to p75)",
        "stages",
        "predicted of an H200",
        "H200 bound",
        "share of the bound",
        "comparing rows: TFLOP/s",
        "GB/s",
        "`x @ x.T` alone",
        "published loop",
        "fastest correct peer",
        "times faster",
    )
    lines = heading(header)
    for row in rows:
        if row["implementation"] != OPERATOR:
            continue

        def beside(implementation: str, method: str, how: str, row: dict[str, Any] = row) -> dict[str, Any] | None:
            wanted = (row["tokens"], row["dtype"], method, how)
            return next(
                (
                    other
                    for other in rows
                    if (other["tokens"], other["dtype"], other["method"], other["how"]) == wanted
                    and other["implementation"].startswith(implementation)
                ),
                None,
            )

        times = row["times"]
        spread = f"{number(times['median'])} ({number(times['p25'])} to {number(times['p75'])})" if times else "-"
        stages, predicted = (
            " + ".join(f"{stage} {number(value)}" for stage, value in row[which].items()) if row[which] else "-"
            for which in ("stages", "h200_stages")
        )
        share = f"{100 * row['h200_bound'] / times['median']:.0f} %" if times and row["h200_bound"] else "-"
        fastest = "-"
        if row["ratio"] is not None:
            fastest = f"{number(row['ratio'] * times['median'])} ({row['fastest_correct_peer']})"
        lines.append(
            line(
                (
                    row["tokens"],
                    row["dtype"],
                    f"`{row['method']}`",
                    spread if times else f"none: {row['note']}",
                    stages,
                    predicted,
                    number(row["h200_bound"]),
                    share,
                    number(row["teraflops"]),
                    number(row["gigabytes_per_second"]),
                    _median(beside(PRODUCT, "", GRAPH)),
                    _median(beside("published", row["method"], EAGER)),
                    fastest,
                    number(row["ratio"]),
                )
            )
        )
    device, reached = result["device"], result["ceilings"]
    lines += [
        "",
        f"Microseconds. {device['name']}, {reached['clocks_megahertz'].get('multiprocessors', '-')} MHz under load, "
        f"driver {device['driver']}, CUDA {device['cuda']}, torch {device['torch']}, triton {device['triton']}; "
        f"a large bfloat16 product reaches {number(reached['bfloat16_product_teraflops'])} TFLOP/s, "
        f"a copy {number(reached['copy_gigabytes_per_second'])} GB/s.",
    ]
    if result["not_started"]:
        lines.append(f"Not started, for want of time: {'; '.join(result['not_started'])}.")
    return "\n".join(lines)


def details(result: dict[str, Any]) -> str:
    """Every row, with its spread and its note."""
    header = ("tokens", "dtype", "method", "implementation", "how", "correct", "median", "least", "p25", "p75", "note")
    lines = heading(header)
    for row in result["rows"]:
        times = row["times"] or {}
        numbers = (number(times.get(name)) for name in ("median", "least", "p25", "p75"))
        correct = {True: "yes", False: "no", None: "-"}[row["correct"]]
        named = (row[name] for name in ("tokens", "dtype", "method", "implementation", "how"))
        lines.append(line((*named, correct, *numbers, row["note"].replace("|", "/"))))
    return "\n".join(lines)


def report_progress(step: str) -> None:
    """One line on stderr."""
    print(step, file=sys.stderr, flush=True)


def measured(benchmark: Benchmark, quick: bool) -> dict[str, Any]:
    """Runs every case there is time for, the most telling ones first."""
    reached = ceilings(benchmark.timer)
    for position, case in enumerate(QUICK_CASES if quick else BFLOAT16_CASES):
        benchmark.measure(case, ("divprune", "idpruner", "mmr") if position < 2 else ("divprune", "idpruner"))
    if not quick:
        for case in OTHER_CASES:
            benchmark.measure(case, ("divprune", "idpruner"))
        for title, method in COMPILED_PEERS.items():
            command = [sys.executable, "-m", "bench.gpu", "--compiled", title]
            benchmark.compiled_elsewhere(BFLOAT16_CASES[0], method, title, command)
    compare(benchmark.rows)
    return {
        "device": device_description(),
        "ceilings": reached,
        "rows": [dataclasses.asdict(row) for row in benchmark.rows],
        "not_started": benchmark.not_started,
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures, or renders a result; the exit code is 1 where an operator has no time and 2 without a device."""
    parser = argparse.ArgumentParser(prog="python -m bench.gpu", description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, help="the JSON file (bench/results/DEVICE.json; none with --quick)")
    parser.add_argument("--quick", action="store_true", help="the first case only, and README.md stays as it is")
    parser.add_argument("--budget", type=float, default=BUDGET_SECONDS, help="seconds in which rows may be started")
    parser.add_argument("--render", type=Path, metavar="FILE", help="measure nothing, take this result")
    parser.add_argument("--compiled", choices=COMPILED_PEERS, help="internal: one peer, JSON on stdout")
    options = parser.parse_args(arguments)
    if options.render:
        result = json.loads(options.render.read_text())
    elif not torch.cuda.is_available():
        report_progress("bench.gpu: needs a CUDA device")
        return 2
    else:
        budget = Budget(options.budget)
        cache_bytes = torch.cuda.get_device_properties(torch.cuda.current_device()).L2_cache_size
        benchmark = Benchmark(CudaTimer(), "cuda", cache_bytes, budget, report_progress)
        if options.compiled:
            benchmark.measure_compiled(BFLOAT16_CASES[0], COMPILED_PEERS[options.compiled], options.compiled)
            print(json.dumps([dataclasses.asdict(row) for row in benchmark.rows]))
            return 0
        result = measured(benchmark, options.quick)
        out = options.out or (
            None if options.quick else ROOT / "bench" / "results" / file_name(result["device"]["name"])
        )
        if out is not None:
            out.parent.mkdir(parents=True, exist_ok=True)
            out.write_text(json.dumps(result, indent=1) + "\n")
    print(summary(result))
    print()
    print(details(result))
    if not options.quick:
        put_between(BEGIN, END, summary(result), ROOT / "README.md")
    return 1 if any(row["implementation"] == OPERATOR and row["times"] is None for row in result["rows"]) else 0


if __name__ == "__main__":
    sys.exit(main())
