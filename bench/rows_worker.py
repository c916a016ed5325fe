"""One process of ``python -m bench rows``: does what a JSON request says, and writes what it took.

``python -m bench.rows_worker REQUEST``, or the same under torchrun. A process writes ``OUT.RANK.json``, and the first
one the picks, ``OUT.npy``.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from tokenprune_kernels import distributed, importance
from tokenprune_kernels.__main__ import main as command
from tokenprune_kernels.methods import METHODS

_PAUSE = 0.02
_REPORT = re.compile(r"^([\d,]+) collectives brought ([\d.,]+) MB", re.MULTILINE)


class OwnMemory:
    """The most that this process has in use beyond what it had, in megabytes (10^6), mapped files apart."""

    def __enter__(self) -> OwnMemory:
        self._before = self._most = _anonymous_bytes()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def _watch(self) -> None:
        while not self._ended.wait(_PAUSE):
            self._most = max(self._most, _anonymous_bytes())

    def __exit__(self, *error: object) -> None:
        self._ended.set()
        self._thread.join()
        self.megabytes = 1e-6 * (self._most - self._before)


def _anonymous_bytes() -> int:
    found = re.search(r"^RssAnon:\s+(\d+) kB$", Path("/proc/self/status").read_text(), re.MULTILINE)
    return 1024 * int(found[1]) if found else 0


def operator(request: dict[str, Any]) -> dict[str, Any]:
    """The operator on rows in memory."""
    x = torch.from_numpy(np.load(request["file"]))
    torch.ops.tokenprune.divprune(x[:64], 8)  # starts the threads
    with OwnMemory() as memory:
        start = perf_counter()
        picks = torch.ops.tokenprune.divprune(x, request["k"])
        seconds = perf_counter() - start
    np.save(f"{request['out']}.npy", picks.numpy())
    return {"seconds": seconds, "megabytes": memory.megabytes}


def select(request: dict[str, Any]) -> dict[str, Any]:
    """The command, in this process."""
    printed = io.StringIO()
    with OwnMemory() as memory, contextlib.redirect_stdout(printed):
        start = perf_counter()
        command(["select", request["file"], "--k", str(request["k"]), "--out", f"{request['out']}.npy"])
        seconds = perf_counter() - start
    made = {"seconds": seconds, "megabytes": memory.megabytes}
    if report := _REPORT.search(printed.getvalue()):
        collectives, received = (float(group.replace(",", "")) for group in report.groups())
        made |= {"collectives": int(collectives), "received_megabytes": received}
    return made


def loop(request: dict[str, Any], similarities_of: Callable[[Any], Callable[[int], Any]]) -> dict[str, Any]:
    """The farthest-first loop from a first pick on: as many rounds as there is time for, and the time of all."""
    x = np.load(request["file"], mmap_mode="r")
    picks = [request["first"]]
    with OwnMemory() as memory:
        start = perf_counter()
        unit = x / np.linalg.norm(x, axis=1, keepdims=True)
        of = similarities_of(unit)
        nearest = of(picks[0])
        prepared = perf_counter()
        while len(picks) < request["k"] and perf_counter() - prepared < request["seconds"]:
            nearest[picks[-1]] = np.inf
            picks.append(int(nearest.argmin()))
            np.maximum(nearest, of(picks[-1]), out=nearest)
        ended = perf_counter()
    rounds = len(picks) - 1
    np.save(f"{request['out']}.npy", np.array(picks))
    seconds = prepared - start + (ended - prepared) * (request["k"] - 1) / max(1, rounds)
    return {"seconds": seconds, "measured_rounds": rounds, "megabytes": memory.megabytes}


def numpy_loop(request: dict[str, Any]) -> dict[str, Any]:
    """Distances by NumPy."""
    return loop(request, lambda unit: lambda pick: unit @ unit[pick])


def faiss_loop(request: dict[str, Any]) -> dict[str, Any]:
    """Distances by faiss-cpu."""
    import faiss

    def similarities_of(unit: Any) -> Callable[[int], Any]:
        return lambda pick: faiss.pairwise_distances(unit[pick : pick + 1], unit, faiss.METRIC_INNER_PRODUCT)[0]

    return loop(request, similarities_of)


def photograph(request: dict[str, Any]) -> dict[str, Any]:
    """A photograph's patches, spread over the ranks."""
    from bench import inputs

    x = inputs.photograph(request["photograph"], request["side"]).make("cpu").bfloat16()
    k, rank, size = round(inputs.KEEP_RATIO * len(x)), dist.get_rank(), dist.get_world_size()
    mine = x[len(x) * rank // size : len(x) * (rank + 1) // size]
    method = request["method"]
    made = getattr(distributed, method)(*METHODS[method].arguments(mine, importance.norm(mine), (k,), 0.5))
    weight = importance.norm(x)
    expected = getattr(torch.ops.tokenprune, method)(*METHODS[method].arguments(x, weight, (k,), 0.5))
    received = 1e-6 * made.received_bytes
    return {
        "rows": len(x),
        "k": k,
        "collectives": made.collectives,
        "received_megabytes": received,
        "same_as_one_process": torch.equal(made.indices, expected),
    }


WAYS: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "operator": operator,
    "select": select,
    "NumPy loop": numpy_loop,
    "faiss loop": faiss_loop,
    "photograph": photograph,
}


@contextlib.contextmanager
def processes() -> Iterator[int]:
    """Joins the other processes of torchrun; yields the rank of this one."""
    if "RANK" not in os.environ:
        yield 0
        return
    dist.init_process_group("gloo")
    try:
        yield dist.get_rank()
    finally:
        dist.destroy_process_group()


def main(request: dict[str, Any]) -> None:
    """Does what the request says."""
    with processes() as rank:
        made = WAYS[request["way"]](request)
        Path(f"{request['out']}.{rank}.json").write_text(json.dumps(made | {"threads_used": torch.get_num_threads()}))


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
