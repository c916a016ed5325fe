"""The best loops under torch.compile, in a process of their own: ``python -m bench.cpu.compiled METHOD DTYPE``.

Prints one JSON object: ``picks``, ``seconds`` of each call, and a ``note`` where the loop is not compiled as a whole.
"""

from __future__ import annotations

import json
import sys
from time import perf_counter
from typing import Any

import torch

from bench.child import output_within
from bench.times import Times
from python_ref import published

from .cases import LAM, Case, task
from .inputs import photograph
from .measure import judge
from .rows import Row

LOOPS = {"divprune": published.running_minimum_divprune, "idpruner": published.published_idpruner}
NAMES = {"divprune": "running-minimum loop, torch.compile", "idpruner": "published IDPruner loop, torch.compile"}
LONGEST_COMPILATION = 30.0
ROUNDS = 20


def compiled_case(method: str, dtype: torch.dtype) -> Case:
    """The smallest one: the compiler unrolls a loop's k steps."""
    return Case(photograph("astronaut", 24), method, dtype)


def compiled_row(case: Case, seconds: float) -> Row:
    """The row of a loop that compiles and runs within so many seconds, or that says that it does not.

    Raises:
        subprocess.SubprocessError: when the process fails, or takes longer.
    """
    row = Row.on(case, NAMES[case.method])
    command = [sys.executable, "-m", __name__, case.method, case.dtype_name]
    answer = json.loads(output_within(seconds, command).splitlines()[-1])
    judge(row, task(case), torch.tensor(answer["picks"]), None)
    row.times = Times.of([1e3 * seconds for seconds in answer["seconds"]])
    row.note = row.note or answer["note"]
    return row


def run(case: Case) -> dict[str, Any]:
    """Compiles the loop and times it, in this process."""
    given = task(case)
    loop = torch.compile(LOOPS[case.method], dynamic=False)
    arguments = (given.x, given.k) if given.weight is None else (given.x, given.weight, given.k, LAM)
    picks = loop(*arguments)
    seconds = []
    for _ in range(ROUNDS):
        start = perf_counter()
        loop(*arguments)
        seconds.append(perf_counter() - start)
    breaks = torch._dynamo.utils.counters["graph_break"]
    note = f"not compiled as a whole: {next(iter(breaks)).splitlines()[0]}" if breaks else ""
    return {"picks": picks.tolist(), "seconds": seconds, "note": note}


if __name__ == "__main__":
    print(json.dumps(run(compiled_case(sys.argv[1], getattr(torch, sys.argv[2])))))
