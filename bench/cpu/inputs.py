"""Tokens that selections are timed on, float32 ``[..., N, 4096]``, the same in every run."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy
import skimage
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps
from torch import Tensor

from tokenprune_kernels.analysis.pictures import PATCH, open_picture

DIMENSIONS = 4_096
KEPT_SHARE = 0.1

# Files inside the scikit-image package.
PHOTOGRAPHS = {"astronaut": "astronaut.png", "coffee": "coffee.png", "motorcycle": "motorcycle_left.png"}

FRAME_SIDE = 12  # patches; 144 tokens a frame
DRIFT = (3, 2)  # pixels a frame
CLUSTERS = 64
BATCH_ITEMS, BATCH_SIDE = 32, 24


@dataclass(frozen=True)
class Tokens:
    """An input: how it is made, how many rows N an item has, and how many items there are (None: no batch)."""

    kind: str
    name: str
    count: int
    make: Callable[[], Tensor] = field(compare=False)
    items: int | None = None

    @property
    def k(self) -> int:
        return round(KEPT_SHARE * self.count)

    @property
    def size(self) -> str:
        items = "" if self.items is None else f"{self.items} x "
        return f"{items}{self.count:,}, k = {self.k:,}"


def photograph(name: str, side: int) -> Tokens:
    """The middle square of a photograph, cut into ``side x side`` patches."""

    def make() -> Tensor:
        return patch_tokens(ImageOps.fit(open_picture(_path(name)), (side * PATCH, side * PATCH)))

    return Tokens("photograph", name, side**2, make)


def video(frames: int) -> Tokens:
    """A crop that drifts over a photograph, frame after frame of 12 x 12 patches."""

    def make() -> Tensor:
        picture, edge = open_picture(_path("astronaut")), FRAME_SIDE * PATCH
        corners = [(frame * DRIFT[0], frame * DRIFT[1]) for frame in range(frames)]
        return torch.cat([patch_tokens(picture.crop((x, y, x + edge, y + edge))) for x, y in corners])

    return Tokens("video-like", f"{frames} frames", frames * FRAME_SIDE**2, make)


def crops() -> Tokens:
    """A batch: crops of the photographs, each scaled to 24 x 24 patches."""

    def make() -> Tensor:
        pictures = [open_picture(_path(name)) for name in PHOTOGRAPHS]
        edge, items = BATCH_SIDE * PATCH, []
        for item in range(BATCH_ITEMS):
            x, y = 7 * item, 3 * item
            picture = pictures[item % len(pictures)].crop((x, y, x + 256, y + 256))
            items.append(patch_tokens(picture.resize((edge, edge))))
        return torch.stack(items)

    return Tokens("batch of crops", f"{BATCH_ITEMS} crops", BATCH_SIDE**2, make, BATCH_ITEMS)


def clustered(count: int) -> Tokens:
    """64 Gaussian clusters, three times as wide as their members scatter."""

    def make() -> Tensor:
        generator = torch.Generator().manual_seed(0)
        centres = torch.randn(CLUSTERS, DIMENSIONS, generator=generator)
        members = torch.randint(CLUSTERS, (count,), generator=generator)
        return centres[members] + torch.randn(count, DIMENSIONS, generator=generator) / 3

    return Tokens("clustered", f"{CLUSTERS} clusters", count, make)


def noise(count: int) -> Tokens:
    """Gaussian noise, in which no row is like another: the worst case for an outlier search."""
    return Tokens(
        "Gaussian noise",
        "noise",
        count,
        lambda: torch.randn(count, DIMENSIONS, generator=torch.Generator().manual_seed(0)),
    )


def duplicates(count: int) -> Tokens:
    """Each row about four times: still more distinct rows than are kept."""

    def make() -> Tensor:
        generator = torch.Generator().manual_seed(0)
        distinct = torch.randn(count // 4, DIMENSIONS, generator=generator)
        return distinct[torch.randint(len(distinct), (count,), generator=generator)]

    return Tokens("many duplicates", "each row four times", count, make)


def patch_tokens(picture: Image.Image) -> Tensor:
    """One token per 14 x 14 patch, ``[N, 4096]``: its pixels, centred and scaled, times a seeded Gaussian matrix."""
    pixels = (torch.from_numpy(numpy.array(picture)).permute(2, 0, 1).float() / 255 - 0.5) / 0.25
    patches = F.unfold(pixels.unsqueeze(0), PATCH, stride=PATCH).squeeze(0).mT
    return patches @ _embedding(patches.shape[1])


@functools.cache
def _embedding(depth: int) -> Tensor:
    return torch.randn(depth, DIMENSIONS, generator=torch.Generator().manual_seed(0)) / depth**0.5


def _path(name: str) -> Path:
    return Path(skimage.data_dir) / PHOTOGRAPHS[name]
