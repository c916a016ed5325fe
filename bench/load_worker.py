"""One process of the load benchmark: ``python -m bench.load_worker``.

Each line of stdin is a JSON request, each line of stdout its answer; it ends with its stdin.
"""

from __future__ import annotations

import json
import sys
import threading
from time import perf_counter
from typing import Any

import torch

from bench import judge
from bench.cases import Case, Task, task
from bench.inputs import photograph
from bench.peers import CPU_PEERS, OPERATOR, Select

PHOTOGRAPH = "astronaut"


class Worker:
    """Selections that have been prepared, and the picks that each has to make."""

    def __init__(self) -> None:
        self.default_threads = self.threads = torch.get_num_threads()
        self.prepared: dict[tuple[str, int, str], tuple[Task, Select, list[torch.Tensor]]] = {}

    def prepare(self, implementation: str, side: int, dtype: str, *, judged: bool) -> dict[str, Any]:
        """Makes the first call; what is wrong with its picks, if they shall be judged."""
        made = next(each for each in (OPERATOR, *CPU_PEERS) if each.name == implementation)
        given = task(Case(photograph(PHOTOGRAPH, side), "divprune", getattr(torch, dtype)))
        select = made.prepare(given)
        picks = given.tokens.picks(select(given.x))
        self.prepared[implementation, side, dtype] = given, select, picks
        if not judged:
            return {}
        return {"note": judge.mistake_of_items(given.method, given.tokens, given.x, picks, given.weight)}

    def run(
        self, implementation: str, side: int, dtype: str, threads: int, callers: int, seconds: float
    ) -> dict[str, Any]:
        """Calls from ``callers`` threads until the time is over, at least once; ``threads`` 0 is torch's default."""
        given, select, picks = self.prepared[implementation, side, dtype]
        threads = threads or self.default_threads
        if threads != self.threads:
            torch.set_num_threads(threads)
            self.threads = threads
            select(given.x)  # starts the threads
        milliseconds: list[float] = []
        wrong: list[bool] = []
        start = perf_counter()

        def call() -> None:
            ended = start
            while ended < start + seconds or not milliseconds:
                begun = perf_counter()
                result = select(given.x)
                ended = perf_counter()
                milliseconds.append(1e3 * (ended - begun))
                if not judge.same(given.tokens.picks(result), picks):
                    wrong.append(True)

        others = [threading.Thread(target=call) for _ in range(callers - 1)]
        for other in others:
            other.start()
        call()
        for other in others:
            other.join()
        return {"milliseconds": milliseconds, "elapsed": perf_counter() - start, "wrong": bool(wrong)}


def main() -> None:
    worker = Worker()
    for request in map(json.loads, sys.stdin):
        print(json.dumps(getattr(worker, request.pop("do"))(**request)), flush=True)


if __name__ == "__main__":
    main()
