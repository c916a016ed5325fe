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
    command = commands.add_parser("select", help="select diverse rows of .npy and .safetensors files, of any size")
    command.add_argument("files", metavar="FILE", nargs="+", help=".npy or .safetensors files, or folders of them")
    command.add_argument("--k", type=_count, required=True, metavar="COUNT", help="how many rows to keep")
    command.add_argument(
        "--method",
        choices=_METHODS,
        default="divprune",
        metavar="METHOD",
        help=f"one of {', '.join(_METHODS)} (divprune)",
    )
    command.add_argument("--tensor", metavar="NAME", help="the matrix, in safetensors files that have several")
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
    k, lam, rows = agree(exchange, "select", parts, options.k, options.lam)
    picked = None if options.resume is None else _picked(Path(options.resume), k, sum(rows))
    start = perf_counter()
    selection = Progress(options.method, parts, weight, k, lam, exchange, rows, picked)
    first = exchange.rank == 0
    try:
        with Bar(k) as bar:
            if first:
                bar.reach(
                    0, "looking for the first pick" if picked is None else f"going on after {len(picked):,} picks"
                )
            for number, count in enumerate(selection.rounds(), 1):
                if first:
                    to_go = (perf_counter() - start) * (k - count) / max(1, count)
                    bar.reach(count, f"picks, {number} rounds, about {to_go:.0f} s to go")
    except KeyboardInterrupt:
        indices = selection.indices() if picked is None or len(selection.indices()) else picked
        if first:
            _write(Path(options.out), indices)
        raise KeyboardInterrupt(
            f"{options.out} has {len(indices):,} of {k:,} picks, --resume goes on from it"
        ) from None
    if first:
        _write(Path(options.out), selection.indices())
        seconds = perf_counter() - start
        print(f"{options.method} kept {k:,} of {sum(rows):,} rows in {seconds:.1f} s")
        print(f"wrote {options.out}")


def _picked(path: Path, k: int, count: int) -> Tensor:
    import numpy

    picked = torch.from_numpy(numpy.load(path))
    if picked.dtype != torch.int64 or picked.dim() != 1 or len(picked.unique()) < len(picked):
        raise ValueError(f"argument --resume: expected different row numbers, int64, in {path}")
    if len(picked) > k or bool(((picked < 0) | (picked >= count)).any()):
        raise ValueError(f"argument --resume: expected at most {k:,} numbers of {count:,} rows, got others in {path}")
    return picked


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
