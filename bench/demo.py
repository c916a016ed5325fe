"""Prunes a photograph to a tenth of its patches: times against the oracle, and a picture of what is kept.

Run from the root of the source tree: ``python -m bench.demo``.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import skimage
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

import python_ref
import tokenprune_kernels
from bench.result_file import processor
from tokenprune_kernels import importance, metrics
from tokenprune_kernels.analysis import pictures
from tokenprune_kernels.verify import verify_trace

PICTURE = "astronaut.png"
KEEP_RATIO = 0.1
# The norm of a pixel patch says little (black and white have the largest), so it gets the smaller share.
IMPORTANCE_SHARE = 0.3
RUNS = 15
ORACLE_RUNS = 3

_BACKGROUND = (17, 20, 27)
_TITLE = (245, 246, 248)
_SUBTITLE = (176, 183, 196)
_MARGIN = 44
_GAP = 26
_CORNER = 36
_PANEL_CORNER = 10
_CAPTION = 150


class WrongSelectionError(Exception):
    """A selection that the float64 replay rejects."""


@dataclass(frozen=True)
class Selection:
    """What a method kept of the picture: numbers of patches, int64 ``[k]``; times are in milliseconds."""

    name: str
    kept: Tensor
    smallest_distance: float
    time: float | None = None
    oracle_time: float | None = None


def select(tokens: Tensor, report: Callable[[str], None]) -> list[Selection]:
    """DivPrune, IDPruner and a random subset of tokens ``[N, D]``, each at the same number of kept tokens.

    ``report`` is told each step. Raises WrongSelectionError if the oracle's float64 replay rejects a selection.
    """
    norm = importance.norm(tokens)

    def divprune() -> Tensor:
        return tokenprune_kernels.divprune(tokens, keep_ratio=KEEP_RATIO)

    def idpruner() -> Tensor:
        return tokenprune_kernels.idpruner(tokens, norm, keep_ratio=KEEP_RATIO, lam=IMPORTANCE_SHARE)

    k = len(divprune())
    shuffled = torch.randperm(len(tokens), generator=torch.Generator().manual_seed(0))
    return [
        _measured("DivPrune", tokens, None, divprune, lambda: python_ref.divprune(tokens, k), report),
        _measured(
            "IDPruner", tokens, norm, idpruner, lambda: python_ref.idpruner(tokens, norm, k, IMPORTANCE_SHARE), report
        ),
        Selection("Random", shuffled[:k], _smallest_distance(tokens, shuffled[:k])),
    ]


def _measured(
    name: str,
    tokens: Tensor,
    weight: Tensor | None,
    run: Callable[[], Tensor],
    run_oracle: Callable[[], object],
    report: Callable[[str], None],
) -> Selection:
    """The selection that ``run`` makes, checked first and then timed."""
    report(f"{name}: checking the selection in float64")
    kept = run()
    trace = verify_trace(name.lower(), tokens, kept, weight, IMPORTANCE_SHARE)
    if not trace:
        raise WrongSelectionError(f"no time for {name}, it is wrong at step {trace.step}: {trace.reason}")
    report(f"{name}: timing the operator, {RUNS} runs")
    time = _median_milliseconds(run, RUNS)
    report(f"{name}: timing the oracle, {ORACLE_RUNS} runs")
    oracle_time = _median_milliseconds(run_oracle, ORACLE_RUNS)
    return Selection(name, kept, _smallest_distance(tokens, kept), time, oracle_time)


def _median_milliseconds(call: Callable[[], object], runs: int) -> float:
    times = []
    for _ in range(runs):
        start = perf_counter()
        call()
        times.append(1e3 * (perf_counter() - start))
    return statistics.median(times)


def _smallest_distance(tokens: Tensor, kept: Tensor) -> float:
    """The smallest distance between two kept tokens; equal tokens have 0, whatever the last bit says."""
    return max(0.0, float(metrics.smallest_distance(tokens[kept])))


def table(selections: list[Selection], count: int) -> str:
    """The selections as aligned text, of ``count`` patches."""
    rows: list[tuple[str, ...]] = [("method", "kept", "time (ms)", "oracle (ms)", "smallest distance")]
    for selection in selections:
        kept = f"{len(selection.kept)} of {count:,}"
        times = ("-" if time is None else f"{time:.1f}" for time in (selection.time, selection.oracle_time))
        rows.append((selection.name, kept, *times, f"{selection.smallest_distance:.4f}"))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["   ".join((method.ljust(widths[0]), *map(str.rjust, numbers, widths[1:]))) for method, *numbers in rows]
    lines.insert(1, "-" * len(lines[0]))
    return "\n".join(lines)


def machine() -> str:
    """The processor, the number of threads and the version of torch."""
    return f"{processor()}, {torch.get_num_threads()} threads, torch {torch.__version__}"


def sheet(picture: Image.Image, selections: list[Selection]) -> Image.Image:
    """The picture and what each method keeps of it, side by side with captions, on a dark card."""
    count = len(pictures.patch_tokens(picture))
    panels = [pictures.draw_kept(picture, torch.arange(count))]
    captions = [("The photograph", f"{count:,} patches of {pictures.PATCH} x {pictures.PATCH} pixels")]
    for selection in selections:
        panels.append(pictures.draw_kept(picture, selection.kept))
        distance = f"{selection.smallest_distance:.3f}"
        title = f"IDPruner, lam = {IMPORTANCE_SHARE}" if selection.name == "IDPruner" else selection.name
        captions.append((title, f"{len(selection.kept)} kept, smallest distance {distance}"))
    width, height = panels[0].size
    size = (2 * _MARGIN + len(panels) * (width + _GAP) - _GAP, _MARGIN + height + _CAPTION)
    card = Image.new("RGB", size, _BACKGROUND)
    draw = ImageDraw.Draw(card)
    for i, (panel, (title, subtitle)) in enumerate(zip(panels, captions, strict=True)):
        left = _MARGIN + i * (width + _GAP)
        card.paste(panel, (left, _MARGIN), _rounded(panel.size, _PANEL_CORNER))
        below = _MARGIN + height
        draw.text((left, below + 24), title, _TITLE, ImageFont.load_default(46))
        draw.text((left, below + 86), subtitle, _SUBTITLE, ImageFont.load_default(31))
    card.putalpha(_rounded(card.size, _CORNER))
    return card


def _rounded(size: tuple[int, int], corner: int) -> Image.Image:
    """A mask of a rectangle with round corners, smooth because it is drawn four times as large."""
    mask = Image.new("L", (4 * size[0], 4 * size[1]))
    ImageDraw.Draw(mask).rounded_rectangle((0, 0, 4 * size[0] - 1, 4 * size[1] - 1), 4 * corner, fill=255)
    return mask.resize(size, Image.Resampling.LANCZOS)


def report_progress(step: str) -> None:
    """Shows on stderr what runs now, on a terminal in place of the step before; an empty step clears it there."""
    if sys.stderr.isatty():
        print(f"\r\x1b[K{step}", end="", file=sys.stderr, flush=True)
    elif step:
        print(step, file=sys.stderr, flush=True)


def fail(message: str, exit_code: int) -> int:
    """Prints one line on stderr, and returns the exit code."""
    report_progress("")
    print(f"demo: {message}", file=sys.stderr)
    return exit_code


def main() -> int:
    """Runs the demo; the exit code is 1 for a wrong selection and 2 for an output that cannot be written."""
    parser = argparse.ArgumentParser(prog="python -m bench.demo", description=__doc__.partition("\n")[0])
    parser.add_argument("--out", default="demo.png", help="where the picture is written (demo.png)")
    out = parser.parse_args().out
    picture = pictures.open_picture(Path(skimage.data_dir) / PICTURE)
    tokens = pictures.patch_tokens(picture)
    try:
        selections = select(tokens, report_progress)
    except WrongSelectionError as error:
        return fail(str(error), 1)
    report_progress("drawing")
    try:
        pictures.save_picture(sheet(picture, selections), out)
    except ValueError as error:
        return fail(str(error), 2)
    report_progress("")
    print(table(selections, len(tokens)))
    print(f"\n{PICTURE}, tokens of {tokens.shape[1]:,} bfloat16, medians of {RUNS} runs (oracle: {ORACLE_RUNS})")
    print(f"IDPruner: importance is the token norm, lam = {IMPORTANCE_SHARE}; random: one seeded subset")
    print(machine())
    print(f"wrote {out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
