"""``python -m tokenprune_kernels select``: the most diverse rows of files that need not fit into memory."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from .analysis.progress import Progress as Bar
from .methods import METHODS
from .row_files import open_rows, open_weights, share

_METHODS = ("divprune", "mmr", "idpruner")


def add(commands: Any) -> None:
    """Adds the command to a parser."""
    command = commands.add_parser("select", help="select diverse rows of files of any size")
    command.add_argument(
        "files",
        metavar="FILE",
        nargs="+",
        help="files .npy, .safetensors, .arrow, .feather and .parquet, or folders of them",
    )
    command.add_argument("--k", type=_count, required=True, metavar="COUNT", help="how many rows to keep")
    command.add_argument(
        "--method",
        choices=_METHODS,
        default="divprune",
        metavar="METHOD",
        help=f"one of {', '.join(_METHODS)} (divprune)",
    )
    command.add_argument("--tensor", metavar="NAME", help="the matrix or column, in files that have several")
    command.add_argument("--weights", metavar="FILE", help="relevance (mmr) or importance (idpruner) of each row")
    command.add_argument("--lam", type=float, default=0.5, metavar="SHARE", help="weight of these, in [0, 1] (0.5)")
    command.add_argument("--out", default="indices.npy", metavar="FILE", help="the picks, int64 (indices.npy)")
    command.add_argument(
        "--resume", metavar="FILE", help="what an interrupted selection has left: go on from it, to the same result"
    )
    command.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Runs the command: on every rank, where torchrun has started several."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or dist.is_initialized():
        return _select(options)
    dist.init_process_group("gloo")
    try:
        _select(options)
    finally:
        dist.destroy_process_group()


def _select(options: argparse.Namespace) -> None:
    from .distributed.agreement import agree
    from .distributed.exchange import Exchange
    from .distributed.selection import Progress

    method = METHODS[options.method]
    if (options.weights is None) != (method.weight is None):
        needed = "no file" if method.weight is None else f"a file with {method.weight}"
        raise ValueError(f"argument --weights: expected {needed} with {options.method}, got {options.weights}")
    exchange = Exchange(None)
    everything = open_rows(options.files, options.tensor)
    parts = share(everything, exchange.rank, exchange.size)
    weight = None
    if options.weights is not None:
        whole = open_weights(options.weights, sum(map(len, everything)))
        (weight,) = share([whole], exchange.rank, exchange.size)
    done = torch.empty(0, dtype=torch.int64) if options.resume is None else _picks(Path(options.resume), options.k)
    more, lam, rows = agree(exchange, "select", parts, options.k - len(done), options.lam, initial=done)
    start = perf_counter()
    selection = Progress(options.method, parts, weight, more, lam, exchange, rows, done)
    first = exchange.rank == 0
    try:
        with Bar(options.k) as bar:
            if first:
                bar.reach(
                    len(done), f"going on after {len(done):,} picks" if len(done) else "looking for the first pick"
                )
            for number, count in enumerate(selection.rounds(), 1):
                if first:
                    to_go = (perf_counter() - start) * (more - count) / max(1, count)
                    bar.reach(len(done) + count, f"picks, {number} rounds, about {to_go:.0f} s to go")
    except KeyboardInterrupt:
        picks = torch.cat([done, selection.indices()])
        if first:
            _write(Path(options.out), picks)
        raise KeyboardInterrupt(
            f"{options.out} has {len(picks):,} of {options.k:,} picks, --resume goes on from it"
        ) from None
    if first:
        _write(Path(options.out), torch.cat([done, selection.indices()]))
        seconds = perf_counter() - start
        print(f"{options.method} kept {options.k:,} of {sum(rows):,} rows in {seconds:.1f} s")
        if exchange.size > 1:
            received = 1e-6 * exchange.received_bytes
            print(
                f"{exchange.collectives:,} collectives brought {received:,.1f} MB to each of {exchange.size} processes"
            )
        print(f"wrote {options.out}")


def _picks(path: Path, k: int) -> Tensor:
    import numpy

    picks = torch.from_numpy(numpy.load(path))
    if picks.dim() != 1 or len(picks) > k:
        raise ValueError(
            f"argument --resume: expected at most {k:,} row numbers in {path}, got shape {list(picks.shape)}"
        )
    return picks


def _write(path: Path, indices: Tensor) -> None:
    """A reader never finds half of it."""
    import numpy

    partial = path.with_name(f"{path.name}.partial")
    with partial.open("wb") as file:
        numpy.save(file, indices.numpy())
    partial.replace(path)


def _count(text: str) -> int:
    try:
        count = int(text)
    except ValueError:
        count = -1
    if count < 0:
        raise argparse.ArgumentTypeError(f"expected a whole number, got {text!r}")
    return count
