"""``python -m bench demo``: the command line prunes a photograph to a tenth of its patches; a table adds times.

The table has DivPrune and IDPruner beside the oracle, and how far apart the kept tokens are, beside a random subset.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import skimage
import torch
from torch import Tensor

import python_ref
import tokenprune_kernels.__main__ as command_line
from bench import judge
from bench.devices.cpu import Cpu
from bench.files import processor
from bench.markdown import heading, line
from bench.times import Times
from tokenprune_kernels import importance, metrics
from tokenprune_kernels.analysis import pictures
from tokenprune_kernels.methods import METHODS

PICTURE = "astronaut.png"
KEEP_RATIO = 0.1
# The norm of a pixel patch says little (black and white have the largest), so it gets the smaller share.
LAM = 0.3
SECONDS, ORACLE_SECONDS = 0.2, 0.01


def table(x: Tensor, k: int) -> str:
    """DivPrune, IDPruner and a random subset of tokens ``[N, D]``.

    Raises:
        RuntimeError: if the float64 replay rejects a selection.
    """
    lines = heading(("method", "kept", "ms", "oracle, ms", "smallest distance"))
    kept_of = f"{k} of {len(x):,}"
    norm = importance.norm(x)
    for name in ("divprune", "idpruner"):
        _, *rest = METHODS[name].arguments(x, norm, (k,), LAM)
        operator, oracle = getattr(torch.ops.tokenprune, name).default, getattr(python_ref, name)
        picks = operator(x, *rest)
        weight = None if METHODS[name].weight is None else norm
        if mistake := judge.mistake(name, x, picks, k, weight, LAM):
            raise RuntimeError(f"no time for {name}, its selection is wrong: {mistake}")
        times = [
            Times.of(Cpu().time(lambda x, each=each, rest=rest: each(x, *rest), x, seconds=seconds)[1]).median
            for each, seconds in ((operator, SECONDS), (oracle, ORACLE_SECONDS))
        ]
        lines.append(line((name, kept_of, *(f"{time:.1f}" for time in times), _smallest_distance(x[picks]))))
    shuffled = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    return "\n".join([*lines, line(("random", kept_of, "-", "-", _smallest_distance(x[shuffled[:k]])))])


def _smallest_distance(kept: Tensor) -> str:
    # Equal tokens have distance 0, whatever the last bit says.
    return f"{max(0.0, float(metrics.smallest_distance(kept))):.4f}"


def main(arguments: Sequence[str]) -> int:
    """Runs the demo; the exit code is 1 for a wrong selection and 2 for an output that cannot be written."""
    parser = argparse.ArgumentParser(prog="python -m bench demo", description=__doc__.partition("\n")[0])
    parser.add_argument("--out", default="demo.png", help="where the picture is written (demo.png)")
    options = parser.parse_args(arguments)
    path = Path(skimage.data_dir) / PICTURE
    command_line.main(["prune", str(path), "--keep", str(KEEP_RATIO), "--out", options.out])
    x = pictures.patch_tokens(pictures.open_picture(path))
    try:
        print(f"\n{table(x, round(KEEP_RATIO * len(x)))}")
    except RuntimeError as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1
    print(f"\n{PICTURE}, tokens of {x.shape[1]:,} bfloat16; importance is the token norm, lam = {LAM}; medians")
    print(f"{processor()}, {torch.get_num_threads()} threads, torch {torch.__version__}")
    return 0
