"""``python -m tokenprune_kernels select``: the most diverse rows of files that need not fit into memory."""

from __future__ import annotations

import argparse
import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from time import perf_counter
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from . import option_values
from .analysis.progress import Progress as Bar
from .methods import METHODS
from .row_files import fingerprint, is_among, open_picks, open_rows, open_weights, share

_METHODS = tuple(name for name, method in METHODS.items() if method.has_initial)


def add(commands: Any) -> None:
    """Adds the command to a parser."""
    command = commands.add_parser("select", help="select diverse rows of files of any size")
    command.add_argument(
        "files",
        metavar="FILE",
        nargs="+",
        help="files .npy, .safetensors, .arrow, .feather and .parquet, or folders of them",
    )
    command.add_argument("--k", type=option_values.count, required=True, metavar="COUNT", help="how many rows to keep")
    command.add_argument(
        "--method",
        type=option_values.one_of(_METHODS),
        default="divprune",
        metavar="METHOD",
        help=f"one of {', '.join(_METHODS)} (divprune)",
    )
    command.add_argument("--tensor", metavar="NAME", help="the matrix or column, in files that have several")
    command.add_argument("--weights", metavar="FILE", help="relevance (mmr) or importance (idpruner) of each row")
    command.add_argument("--lam", type=option_values.lam, metavar="SHARE", help="weight of these, in [0, 1] (0.5)")
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
    from .distributed.agreement import agree, together
    from .distributed.exchange import Exchange
    from .distributed.selection import Progress

    out = Path(options.out)
    exchange = Exchange(None)
    first = exchange.rank == 0
    mine = together(exchange, "select", lambda: _opened(options, out, exchange.rank, exchange.size))
    done = mine.done
    lam = 0.5 if options.lam is None else options.lam
    k = options.k - len(done)
    more, lam, rows = agree(exchange, "select", options.method, mine.rows, k, lam, initial=done, same=mine.files)
    start = perf_counter()
    selection = Progress(options.method, mine.rows, mine.weight, more, lam, exchange, rows, done)
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
        if first:
            _write(out, torch.cat([done, selection.indices()]))
    except (KeyboardInterrupt, RuntimeError) as error:  # Ctrl-C, or another process has ended
        picks = torch.cat([done, selection.indices()])
        if len(picks) == 0:
            raise
        if first:
            _write(out, picks)
        left = f"{out} has {len(picks):,} of {options.k:,} picks, --resume goes on from it"
        if isinstance(error, KeyboardInterrupt):
            raise KeyboardInterrupt(left) from None
        raise RuntimeError(f"{error}; {left}") from None
    if first:
        seconds = perf_counter() - start
        print(f"{options.method} kept {options.k:,} of {sum(rows):,} rows in {seconds:.1f} s")
        if exchange.size > 1:
            received = 1e-6 * exchange.received_bytes
            print(
                f"{exchange.collectives:,} collectives brought {received:,.1f} MB to each of {exchange.size} processes"
            )
        print(f"wrote {out}")


class _Opened(NamedTuple):
    """What one process selects from.

    Attributes:
        rows: of this process, one or several tensors ``[n, D]``.
        weight: of these rows, if the method has weights.
        done: the picks that were made before.
        files: fingerprints of the files, which are the same for all processes.
    """

    rows: list[Tensor]
    weight: Tensor | None
    done: Tensor
    files: dict[str, str]


def _opened(options: argparse.Namespace, out: Path, rank: int, size: int) -> _Opened:
    method = METHODS[options.method]
    if (options.weights is None) != (method.weight is None):
        needed = "no file" if method.weight is None else f"a file with {method.weight}"
        raise ValueError(f"argument --weights: expected {needed} with {options.method}, got {options.weights}")
    option_values.check_lam(options.lam, options.method)
    _check_out(out, [*options.files, *([] if options.weights is None else [options.weights])], rank == 0)
    everything = open_rows(options.files, options.tensor)
    weight = None
    if options.weights is not None:
        whole = open_weights(options.weights, sum(map(len, everything)))
        (weight,) = share([whole], rank, size)
    done = torch.empty(0, dtype=torch.int64) if options.resume is None else open_picks(options.resume)
    if len(done) > options.k:
        raise ValueError(f"argument --resume: expected at most {options.k:,} row numbers, got {len(done):,}")
    files = {"files": fingerprint(options.files)}
    if options.weights is not None:
        files["weights"] = fingerprint([options.weights])
    return _Opened(share(everything, rank, size), weight, done, files)


def _check_out(out: Path, inputs: Sequence[str], first: bool) -> None:
    """A selection that could not be written, or would take the place of its inputs, is not begun."""
    with _writing(out) as partial:
        if out.exists() and not out.is_file():
            raise ValueError(f"argument --out: expected a file, got {str(out)!r}, which is none")
        if is_among(out, inputs):
            raise ValueError(f"argument --out: expected another file than those of rows and weights, got {str(out)!r}")
        if first:
            partial.touch()
            partial.unlink()


def _write(out: Path, indices: Tensor) -> None:
    import numpy

    with _writing(out) as partial:
        with partial.open("wb") as file:
            numpy.save(file, indices.numpy())
        partial.replace(out)


@contextlib.contextmanager
def _writing(out: Path) -> Iterator[Path]:
    """Yields what is to take the place of a file, so that a reader never finds half of it."""
    try:
        yield out.parent / f"{out.name}.partial"
    except OSError as error:
        raise ValueError(
            f"argument --out: expected a file that can be written, got {str(out)!r}: {error.strerror or error}"
        ) from None
