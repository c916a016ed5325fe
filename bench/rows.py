"""``python -m bench rows``: DivPrune on a million rows of a file, by the command ``select`` and its peers.

The rows are those of ``python -m bench clusters``. Peers are farthest-first loops from our first pick on: where they
take too long, a part of their rounds is measured, and the rest has the same time a round. The float64 judge replays all
picks. Then the collectives are counted that a large photograph takes. Every call is a process of its own, or two.

It takes hours, and goes on where an earlier run has ended. Writes ``bench/results/rows-PROCESSOR.json``, its figure,
and the tables of docs/distributed.md.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench import clusters, files, render, rows_judge, rows_table
from bench.inputs import PHOTOGRAPHS
from bench.run_with_timeout import run_with_timeout
from tokenprune_kernels import build_info
from tokenprune_kernels.analysis.progress import Progress

MOST_SECONDS = 4 * 3_600.0
LOOP_SECONDS = 30.0
PHOTOGRAPH_SIDE, SMALL_SIDE = 128, 20


@dataclass(frozen=True)
class Case:
    """Rows in clusters, and how many are kept."""

    rows: int
    depth: int
    noise: float
    k: int

    def __str__(self) -> str:
        return f"{self.rows:,} x {self.depth}, noise {self.noise:g}, k = {self.k:,}"


@dataclass(frozen=True)
class Way:
    """How the rows are selected. No number of threads is that of torch."""

    way: str
    processes: int = 1
    threads: int | None = None


CASES = (
    *(Case(rows, 384, clusters.NOISE[0], 1_000) for rows in (10_000, 100_000)),
    *(Case(1_000_000, depth, noise, k) for noise in clusters.NOISE for depth in (384, 768) for k in (1_000, 10_000)),
)
SMALL = tuple(Case(4_000, 64, noise, 200) for noise in clusters.NOISE)
OPERATOR = Way("operator")
WAYS = (
    OPERATOR,
    Way("operator", threads=1),
    Way("select"),
    Way("select", threads=1),
    Way("select", processes=2),
    Way("select", processes=2, threads=1),
    Way("NumPy loop"),
    Way("faiss loop"),
)
PEERS = ("NumPy loop", "faiss loop")


def call(way: Way, request: dict[str, Any], out: Path) -> dict[str, Any]:
    """What the processes of one call write: the figures of the slowest and the largest of them.

    Raises:
        subprocess.SubprocessError: when a process fails, or takes too long.
    """
    text = json.dumps(request | {"way": way.way, "out": str(out)})
    threads = torch.get_num_threads() if way.threads is None else way.threads  # torchrun would make it one
    runner = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(way.processes)]
    alone = way.processes == 1
    command = ["env", f"OMP_NUM_THREADS={threads}", sys.executable, *([] if alone else runner), "-m"]
    run_with_timeout(MOST_SECONDS, [*command, "bench.rows_worker", text])
    made = [json.loads(Path(f"{out}.{rank}.json").read_text()) for rank in range(way.processes)]
    most = {name: max(each[name] for each in made) for name in ("seconds", "megabytes") if name in made[0]}
    return made[0] | most


def measured(case: Case, way: Way, file: Path, picks: np.ndarray, folder: Path) -> dict[str, Any]:
    """One row of the table, beside the operator's picks."""
    request = {"file": str(file), "k": case.k, "seconds": LOOP_SECONDS, "first": int(picks[0])}
    try:
        made = call(way, request, folder / "made")
    except subprocess.SubprocessError as error:
        return {"note": files.described(error)}
    found = np.load(folder / "made.npy")
    if way.way in PEERS:
        steps = zip(found.tolist(), picks.tolist(), strict=False)
        return made | {"same_picks": next((step for step, (a, b) in enumerate(steps) if a != b), len(found))}
    return made | {"digest": _digest(found)}


def photographs(side: int) -> Iterator[dict[str, Any]]:
    """The calls on photographs of so many patches a side."""
    for name in PHOTOGRAPHS:
        for method in ("divprune", "idpruner"):
            for processes in (2, 4):
                yield {"photograph": name, "method": method, "side": side, "processes": processes}


class Results:
    """The results so far, which are written after each call."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.made: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {"cells": [], "judged": []}
        self.made.setdefault("photographs", [])
        self.made["machine"] = {
            "processor": files.processor(),
            "instruction_sets": build_info()["backends"]["native"]["supported_isas"],
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
        }

    def find(self, table: str, what: dict[str, Any]) -> dict[str, Any] | None:
        """What is known of a call."""
        return next((each for each in self.made[table] if what.items() <= each.items()), None)

    def add(self, table: str, what: dict[str, Any]) -> None:
        """Adds it, and writes the file."""
        self.made[table].append(what)
        files.write(self._path.name, self.made, self._path.parent)


def run(results: Results, cases: Sequence[Case], ways: Sequence[Way], side: int, folder: Path) -> None:
    """Measures what has not been measured, and judges what has not been judged."""
    pictures = list(photographs(side))
    with Progress(len(cases) * (len(ways) + 1) + len(pictures), lines=True) as progress:
        for case in cases:
            left = [way for way in ways if results.find("cells", asdict(case) | asdict(way)) is None]
            judged = results.find("judged", asdict(case))
            if not left and judged:
                continue
            progress.step(f"{case}: making the rows")
            x, members = clusters.tokens_and_clusters(case.rows, case.noise, case.depth)
            file = folder / "rows.npy"
            np.save(file, x.numpy())
            del x
            made = call(OPERATOR, {"file": str(file), "k": case.k}, folder / "own")
            picks = np.load(folder / "own.npy")
            for way in left:
                progress.step(f"{case}: {way.way}, {way.processes} processes, {way.threads or 'all'} threads")
                found = made | {"digest": _digest(picks)} if way == OPERATOR else None
                found = found or measured(case, way, file, picks, folder)
                results.add("cells", asdict(case) | asdict(way) | found)
            if not judged:
                rows = torch.from_numpy(np.load(file, mmap_mode="c"))
                wrong = rows_judge.mistake(rows, members, torch.from_numpy(picks))
                results.add("judged", asdict(case) | {"digest": _digest(picks), "note": wrong})
            file.unlink()
        for picture in pictures:
            if results.find("photographs", picture):
                continue
            progress.step(f"{picture['photograph']}, {picture['method']}, {picture['processes']} processes")
            made = call(Way("photograph", picture["processes"], 1), picture, folder / "made")
            results.add("photographs", picture | made)


def _digest(picks: np.ndarray) -> str:
    return hashlib.sha256(picks.astype("<i8").tobytes()).hexdigest()[:16]


def main(arguments: Sequence[str]) -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m bench rows", description=__doc__)
    parser.add_argument("--small", action="store_true", help="a trial with a few thousand rows")
    parser.add_argument("--rows", type=int, nargs="*", metavar="N", help="only these numbers of rows")
    parser.add_argument("--depth", type=int, nargs="*", metavar="D", help="only these")
    parser.add_argument("--folder", metavar="FOLDER", help="where the rows are written, up to 3.1 GB")
    parser.add_argument("--out", type=Path, metavar="FILE", help="the results; the documents are left as they are")
    options = parser.parse_args(arguments)
    if options.small and options.out is None:
        parser.error("argument --small: expected --out, got none")
    cases = [
        case
        for case in (SMALL if options.small else CASES)
        if (not options.rows or case.rows in options.rows) and (not options.depth or case.depth in options.depth)
    ]
    path = options.out or files.RESULTS / files.file_name("rows", files.processor())
    results = Results(path)
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        run(results, cases, WAYS, SMALL_SIDE if options.small else PHOTOGRAPH_SIDE, Path(folder))
    print(rows_table.table(results.made), rows_table.photographs(results.made), sep="\n\n")
    rows_table.draw(results.made, path.with_suffix(".png"))
    if options.out is None:
        render.write()
    return 0
