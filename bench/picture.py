"""The picture of README: a photograph, and the patches that each method keeps of it, side by side with captions."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import skimage
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

import tokenprune_kernels
from bench.demo import KEEP_RATIO, LAM, PICTURE
from bench.files import RESULTS
from tokenprune_kernels import importance, metrics
from tokenprune_kernels.analysis import pictures

BACKGROUND, TITLE, SUBTITLE = (17, 20, 27), (245, 246, 248), (176, 183, 196)
MARGIN, GAP, CAPTION = 44, 26, 150
CORNER, PANEL_CORNER = 36, 10


def selections(x: Tensor) -> dict[str, Tensor]:
    """The rows of tokens ``[N, D]`` that stay, by title; at random the same number."""
    divprune = tokenprune_kernels.divprune(x, keep_ratio=KEEP_RATIO)
    idpruner = tokenprune_kernels.idpruner(x, importance.norm(x), keep_ratio=KEEP_RATIO, lam=LAM)
    shuffled = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    return {"DivPrune": divprune, f"IDPruner, lam = {LAM}": idpruner, "Random": shuffled[: len(divprune)]}


def card(picture: Image.Image) -> Image.Image:
    """The picture and what each method keeps of it, on a dark card with round corners."""
    x = pictures.patch_tokens(picture)
    panels = [pictures.draw_kept(picture, torch.arange(len(x)))]
    captions = [("The photograph", f"{len(x):,} patches of {pictures.PATCH} x {pictures.PATCH} pixels")]
    for title, kept in selections(x).items():
        panels.append(pictures.draw_kept(picture, kept))
        distance = max(0.0, float(metrics.smallest_distance(x[kept])))
        captions.append((title, f"{len(kept)} kept, smallest distance {distance:.3f}"))
    width, height = panels[0].size
    size = (2 * MARGIN + len(panels) * (width + GAP) - GAP, MARGIN + height + CAPTION)
    drawn = Image.new("RGB", size, BACKGROUND)
    draw = ImageDraw.Draw(drawn)
    for i, (panel, (title, subtitle)) in enumerate(zip(panels, captions, strict=True)):
        left, below = MARGIN + i * (width + GAP), MARGIN + height
        drawn.paste(panel, (left, MARGIN), _rounded(panel.size, PANEL_CORNER))
        draw.text((left, below + 24), title, TITLE, ImageFont.load_default(46))
        draw.text((left, below + 86), subtitle, SUBTITLE, ImageFont.load_default(31))
    drawn.putalpha(_rounded(size, CORNER))
    return drawn


def _rounded(size: tuple[int, int], corner: int) -> Image.Image:
    """A mask of a rectangle with round corners, drawn four times as large so that it is smooth."""
    mask = Image.new("L", (4 * size[0], 4 * size[1]))
    ImageDraw.Draw(mask).rounded_rectangle((0, 0, 4 * size[0] - 1, 4 * size[1] - 1), 4 * corner, fill=255)
    return mask.resize(size, Image.Resampling.LANCZOS)


def main(arguments: Sequence[str]) -> int:
    """Writes the picture."""
    parser = argparse.ArgumentParser(prog="python -m bench picture", description=__doc__)
    parser.add_argument("--out", type=Path, default=RESULTS / "demo.png", help="where it is written")
    options = parser.parse_args(arguments)
    card(pictures.open_picture(Path(skimage.data_dir) / PICTURE)).save(options.out)
    print(options.out)
    return 0
