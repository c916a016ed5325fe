"""Features of the tower for every scene, computed once and kept in files that grow.

The tower is frozen, so training and evaluation read these instead of running it again. A file is filled from the front
in chunks. After an interruption, it goes on behind the last chunk that was finished.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bench.accuracy import material, scenes, tower
from bench.accuracy.settings import RATIOS, Settings
from tokenprune_kernels.analysis.progress import Progress
from tokenprune_kernels.calls import kept_count

CHUNK = 8  # pictures
HELD_OUT = "held-out"


@dataclass(frozen=True)
class Part:
    """The features of some scenes at one size.

    Attributes:
        name: of its files.
        split: of ``material.SPLITS``.
        first: the number of the first scene.
        count: how many scenes there are.
        height: of the pictures, in patches.
        width: likewise.
        places: which hidden states are kept of each picture, counted from the last one.
        dtype: of the files.
    """

    name: str
    split: str
    first: int
    count: int
    height: int
    width: int
    places: tuple[int, ...]
    dtype: str

    @property
    def tokens(self) -> int:
        """The visual tokens of a picture."""
        return self.height * self.width

    def scene(self, number: int) -> scenes.Scene:
        """That of a number, counted from the first one."""
        return scenes.scene(self.split, self.first + number)


def training(side: int) -> str:
    """The name of the part with training pictures of that side."""
    return f"training-{side}"


def parts(settings: Settings) -> dict[str, Part]:
    """Everything that training and evaluation read, by name."""
    held_out, tokens = settings.held_out_scenes, tower.feature_layers(settings)
    made, first = [], 0
    for side, scenes_of_side in settings.training_scenes:
        count, edge = scenes_of_side + settings.validation_scenes, side // tower.PATCH
        made.append(Part(training(side), material.TRAINING, first, count, edge, edge, tokens, "float16"))
        first += count
    edge = settings.side // tower.PATCH
    made.append(Part(HELD_OUT, material.HELD_OUT, 0, held_out, edge, edge, tower.attention_layers(settings), "float32"))
    for ratio in RATIOS:
        height, width = downsampled(edge, ratio)
        made.append(Part(f"held-out-{ratio:g}", material.HELD_OUT, 0, held_out, height, width, tokens, "float32"))
    return {part.name: part for part in made}


def downsampled(side: int, ratio: float) -> tuple[int, int]:
    """The patches in height and width of the smaller picture that has as many tokens as the pruned one.

    Pictures are as wide as they are tall, or one patch wider. Of these, it is the one whose number of tokens is nearest
    to that of pruning, and of two that are as near the one with fewer.
    """
    k = kept_count("accuracy", side * side, ratio)
    low = math.isqrt(k)
    shapes = [(edge, edge + more) for edge in (low - 1, low, low + 1) for more in (0, 1) if edge > 0]
    return min(shapes, key=lambda shape: (abs(shape[0] * shape[1] - k), shape))


def chunks(numbers: range, size: int) -> list[range]:
    """Consecutive numbers in pieces of that size, the last one perhaps smaller."""
    return [numbers[at : at + size] for at in range(0, len(numbers), size)]


class Features:
    """The files of a part: an array ``[count, places, 1 + tokens, D]`` and how many scenes are in it."""

    def __init__(self, folder: Path, part: Part, depth: int) -> None:
        self.part = part
        self._array = folder / f"{part.name}.npy"
        self._progress = folder / f"{part.name}.json"
        self._shape = (part.count, len(part.places), 1 + part.tokens, depth)
        self._opened: Any = None

    @property
    def done(self) -> int:
        """How many scenes there are, from the first on.

        Raises:
            ValueError: if the files are those of other scenes, or of another size.
        """
        if not self._progress.exists():
            return 0
        found = json.loads(self._progress.read_text())
        expected = self._state()
        if any(found.get(name) != value for name, value in expected.items()):
            got = {name: found.get(name) for name in expected}
            raise ValueError(
                f"features: expected {self._array.name} with {expected}, got {got}; remove the folder or name another"
            )
        return int(found["done"])

    def missing(self) -> list[range]:
        """The chunks of scenes that are not there yet."""
        return chunks(range(self.done, self.part.count), CHUNK)

    def write(self, chunk: range, states: Tensor) -> None:
        """Adds the next scenes; what was interrupted before this returned is done again."""
        mode = "r+" if self._array.exists() and self.done else "w+"
        array = np.lib.format.open_memmap(self._array, mode=mode, dtype=self.part.dtype, shape=self._shape)
        array[chunk.start : chunk.stop] = states.numpy().astype(self.part.dtype)
        array.flush()
        partial = self._progress.with_suffix(".partial")
        partial.write_text(json.dumps(self._state() | {"done": chunk.stop}))
        partial.replace(self._progress)

    def _state(self) -> dict[str, object]:
        part = self.part
        return {"shape": list(self._shape), "dtype": part.dtype, "split": part.split, "first": part.first}

    def read(self, numbers: Sequence[int]) -> Tensor:
        """The hidden states of some scenes, counted from the first one, float32 ``[B, places, 1 + tokens, D]``.

        Raises:
            ValueError: if they are not there yet.
        """
        if self._opened is None:
            self._opened = np.load(self._array, mmap_mode="r") if self._array.exists() else None
        if self._opened is None or max(numbers) >= self.done:
            raise ValueError(f"features: expected {max(numbers) + 1} scenes in {self._array.name}, got {self.done}")
        return torch.from_numpy(self._opened[list(numbers)].astype(np.float32, copy=False))


def opened(settings: Settings, folder: Path) -> dict[str, Features]:
    """The files of all parts, which need not exist yet."""
    depth = tower.configuration(settings).hidden_size
    return {name: Features(folder, part, depth) for name, part in parts(settings).items()}


def pictures(part: Part, chunk: range) -> list[Any]:
    """The pictures of some scenes of a part, in its size."""
    return [
        scenes.resized(
            scenes.render(part.scene(number)),
            part.height * tower.PATCH,
            part.width * tower.PATCH,
        )
        for number in chunk
    ]


@torch.no_grad()
def compute(settings: Settings, folder: Path, report: Callable[[str], None] = print) -> None:
    """Fills all files."""
    folder.mkdir(parents=True, exist_ok=True)
    stores = opened(settings, folder)
    plan = [(name, chunk) for name, store in stores.items() for chunk in store.missing()]
    if not plan:
        report("features: all there")
        return
    model = tower.tower(settings)
    with Progress(len(plan)) as progress:
        for name, chunk in plan:
            part = stores[name].part
            progress.step(f"features: {name}, scenes {chunk.start} to {chunk.stop - 1} of {part.count}")
            pixels = tower.pixel_values(pictures(part, chunk))
            stores[name].write(chunk, tower.hidden_states(model, pixels, part.places))
