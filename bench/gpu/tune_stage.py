"""Tune: launch configurations near those of the tables, for the main shapes: their bits compared, their time taken.

Each is tried in a process of its own. They compile side by side, and are timed one after the other.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import functools
import itertools
import os
import signal
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.gpu.contact_stage import run_checks
from bench.gpu.findings import MEASURED, PASSED, Finding, Findings
from bench.gpu.process import WrongResultError
from tokenprune_kernels.backends.triton import configs

STAGE = "tune"
EACH_SECONDS = 40.0
SECONDS = 0.15
"""How long one configuration is timed."""

ALONE_SECONDS = 10
"""How long a trial may keep the others from being timed: a kernel that hangs then is ended, and named by SIGALRM."""


@dataclass(frozen=True)
class Trial:
    """A row of a table of `configs`, changed, on a shape whose calls take it.

    Attributes:
        table: its name in `configs`.
        row: the changed row.
        form: in which a call of DivPrune takes the table.
        count: N.
        changes: of the row, in short; empty for the row as it is.
    """

    table: str
    row: Any
    form: str
    count: int
    changes: str

    @property
    def name(self) -> str:
        return f"{self.table}, N = {self.count:,}: {self.changes or 'as it is'}"

    def use(self) -> None:
        """Has every later call of this process take the row."""
        setattr(configs, self.table, (self.row, *getattr(configs, self.table)))


def trials(architecture: int = 90) -> Iterator[Trial]:
    """For each main shape the row of the table, then its neighbours; bfloat16, D = 4,096."""
    for count in (576, 2_880):
        row: Any = configs.similarity_config(2, count, 4_096, architecture, aligned=True)
        yield from _near(
            "SIMILARITY", row, "materialised", count, block_n=(64, 128), num_warps=(4, 8), num_stages=(3, 4)
        )
    for count in (576, 2_880):
        block_n = 1 << (count - 1).bit_length()
        greedy: Any = dataclasses.replace(configs.greedy_config(block_n), block_n=block_n)
        yield from _near("GREEDY", greedy, "materialised", count, num_warps=(4, 8, 16))
    for count in (2_880, 16_384):
        row = configs.lazy_greedy_config(2, architecture, aligned=True)
        yield from _near("LAZY_GREEDY", row, "lazy_greedy", count, num_warps=(4, 8), programs=(1, 2), num_stages=(3, 4))
        number = configs.candidate_count(2, count)
        choice: Any = next(each for each in configs.CANDIDATE_COUNTS if each.candidates == number)
        choice = dataclasses.replace(choice, largest_count=float("inf"), element_sizes=(2,))
        yield from _near("CANDIDATE_COUNTS", choice, "lazy_greedy", count, candidates=(256, 512, 1_024))


def _near(table: str, row: Any, form: str, count: int, **values: tuple[int, ...]) -> Iterator[Trial]:
    """The row, and the rows in which one value is another."""
    yield Trial(table, row, form, count, "")
    for name, value in ((name, value) for name, each in values.items() for value in each):
        if getattr(row, name) != value:
            yield Trial(table, dataclasses.replace(row, **{name: value}), form, count, f"{name} = {value}")


def run(findings: Findings, deadline: float, device: str) -> None:
    """Tries each configuration that is not settled, then writes the rows that it proposes."""
    with tempfile.NamedTemporaryFile() as lock:
        checks: dict[str, Callable[[], Any]] = {
            trial.name: functools.partial(measure, trial, Path(lock.name)) for trial in trials()
        }
        run_checks(
            findings, STAGE, checks, deadline, EACH_SECONDS, side_by_side=max(1, min(8, (os.cpu_count() or 1) - 1))
        )
    for finding in proposals(findings):
        findings.add(finding)


def measure(trial: Trial, lock: Path) -> dict[str, Any]:
    """The microseconds of a call with a configuration, in a CUDA graph with a cold cache.

    Raises:
        WrongResultError: the picks are not those of the table's own configuration.
    """
    import torch

    from bench import inputs, judge
    from bench.cases import Case, task
    from bench.devices.cuda import GRAPH, Cuda
    from bench.gpu.calls import Call
    from bench.peers import OPERATOR
    from bench.times import Times

    tokens = inputs.clustered(trial.count, ks=(trial.count // 10,), depth=4_096)
    call = Call(Case(tokens, "divprune", torch.bfloat16), trial.form)
    given = task(call.case, "cuda")
    select = OPERATOR.prepare(given)
    with call.settings():
        expected = [select(given.x)]
        trial.use()
        select(given.x)  # compiles
        with alone(lock):
            results, milliseconds = Cuda().time(select, given.x, GRAPH, SECONDS)
    if not all(judge.same([result], expected) for result in results):
        raise WrongResultError("the picks are not those of the table's own row")
    return {"microseconds": 1e3 * Times.of(milliseconds).median}


@contextlib.contextmanager
def alone(lock: Path, seconds: int = ALONE_SECONDS) -> Iterator[None]:
    """Waits until no other trial is timed. This one has so long, and is then ended."""
    with lock.open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        signal.alarm(seconds)
        yield
        signal.alarm(0)


def proposals(findings: Findings) -> list[Finding]:
    """For each table and shape, the fastest configuration beside the one of the table."""
    found = findings.of(STAGE)
    result = []
    for (table, count), group in itertools.groupby(trials(), key=lambda trial: (trial.table, trial.count)):
        times = {
            trial: found[trial.name].facts["microseconds"]
            for trial in group
            if trial.name in found and found[trial.name].outcome == PASSED
        }
        own = next((time for trial, time in times.items() if not trial.changes), None)
        if own is None:
            continue
        best = min(times, key=lambda trial: times[trial])
        facts = {"row": best.changes or "as it is", "microseconds": times[best], "microseconds_of_the_table": own}
        result.append(Finding(STAGE, f"proposed for {table}, N = {count:,}", MEASURED, facts=facts))
    return result
