"""Scenes: handwritten digits and coloured shapes in the cells of a grid, in front of a photograph.

A scene follows from its split and its number alone. A cell is a column letter and a row number, as on a map.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from bench.accuracy import drawing, material

SEED = 20_261_128
SIDE = 336
"""Of a picture in pixels, as it is drawn. Other sizes are made from this one."""
GRID = 4
COLUMNS, ROWS = ("a", "b", "c", "d"), ("one", "two", "three", "four")
"""Rows are numbered in letters: a figure is always something to be read or counted."""
COLOURS = ("red", "green", "blue", "yellow", "pink")
SHAPES = ("disc", "square", "triangle", "ring", "cross")
DIGITS = (2, 4)
"""How many digits a scene has at least and at most."""
MOST_COUNTED = 4
OTHERS = (2, 4)
"""How many shapes it has beside those that are counted."""
CELLS = tuple(f"{column} {row}" for row in ROWS for column in COLUMNS)
"""In reading order."""


@dataclass(frozen=True)
class Scene:
    """What is in a scene.

    Attributes:
        split: of ``material.SPLITS``.
        number: its number in the split.
        things: what each cell holds, ``"7"`` or ``"red disc"``; in reading order, without the empty ones.
        counted: the shape that is asked for in "how many". It is drawn so that each number from none to
            ``MOST_COUNTED`` is equally likely; in a joined scene, each number that occurs there.
        absent: a coloured shape that is not there, while another one of its colour or shape is.
    """

    split: str
    number: int
    things: dict[str, str]
    counted: str
    absent: str

    @property
    def shapes(self) -> dict[str, str]:
        """The cells with coloured shapes; no two are the same."""
        return {cell: thing for cell, thing in self.things.items() if " " in thing}

    @property
    def swapped(self) -> list[str]:
        """Coloured shapes that are not there, while their colour is, and their shape."""
        colours, shapes = ({pair.split()[place] for pair in self.shapes.values()} for place in (0, 1))
        every = (f"{colour} {shape}" for colour in sorted(colours) for shape in sorted(shapes))
        return [pair for pair in every if pair not in self.shapes.values()]

    @property
    def digits(self) -> list[str]:
        """The digits in reading order."""
        return [thing for thing in self.things.values() if " " not in thing]


def _generator(split: str, number: int, what: int) -> np.random.Generator:
    return np.random.default_rng([SEED, material.SPLITS.index(split), number, what])


def scene(split: str, number: int) -> Scene:
    """The scene of that number."""
    rng = _generator(split, number, 0)
    counted = str(rng.choice(SHAPES))
    pairs = [f"{colour} {counted}" for colour in rng.permutation(COLOURS)[: rng.integers(MOST_COUNTED + 1)]]
    others = [f"{colour} {shape}" for colour in COLOURS for shape in SHAPES if shape != counted]
    pairs += [str(each) for each in rng.permutation(others)[: rng.integers(OTHERS[0], OTHERS[1] + 1)]]
    digits = [str(digit) for digit in rng.integers(10, size=rng.integers(DIGITS[0], DIGITS[1] + 1))]
    placed = pairs + digits
    cells = rng.permutation(len(CELLS))[: len(placed)]
    things = {CELLS[cell]: thing for cell, thing in sorted(zip(cells.tolist(), placed, strict=True))}
    return Scene(split, number, things, counted, _lure(pairs, rng))


def number_of(shape: str, pairs: Collection[str]) -> int:
    """How many of some coloured shapes are of that shape."""
    return sum(pair.endswith(shape) for pair in pairs)


def _lure(pairs: Collection[str], rng: np.random.Generator) -> str:
    """A coloured shape that is none of those, while another one has its colour or shape."""
    alike = {word for pair in pairs for word in pair.split()}
    lures = [
        f"{colour} {shape}"
        for colour in COLOURS
        for shape in SHAPES
        if f"{colour} {shape}" not in pairs and (colour in alike or shape in alike)
    ]
    return str(rng.choice(lures))


def joined(first: Scene, second: Scene, from_second: Sequence[bool], rng: np.random.Generator) -> Scene | None:
    """A scene with some cells of a second one; None where no scene would be like that.

    Args:
        first: what the other cells are of.
        second: what these are of.
        from_second: for each of ``CELLS``, whether it is of the second.
        rng: of what is asked about it.
    """
    sources = {cell: second if of_second else first for cell, of_second in zip(CELLS, from_second, strict=True)}
    things = {cell: source.things[cell] for cell, source in sources.items() if cell in source.things}
    pairs = [thing for thing in things.values() if " " in thing]
    if not pairs or len(set(pairs)) < len(pairs) or not DIGITS[0] <= len(things) - len(pairs) <= DIGITS[1]:
        return None
    numbers = {shape: number_of(shape, pairs) for shape in SHAPES}
    number = rng.choice(sorted(set(numbers.values()) & set(range(MOST_COUNTED + 1))))
    counted = str(rng.choice([shape for shape in SHAPES if numbers[shape] == number]))
    return Scene(first.split, first.number, things, counted, _lure(pairs, rng))


def cells_of_tokens(side: int) -> NDArray[np.int64]:
    """The number in ``CELLS`` of the cell that each token of a picture lies in, ``[side, side]``."""
    places = np.arange(side) * GRID // side
    return places[:, None] * GRID + places


def render(given: Scene) -> Image.Image:
    """The picture of a scene, ``SIDE`` pixels wide and high."""
    rng = _generator(given.split, given.number, 1)
    photographs, digits = material.photographs(given.split), material.digits(given.split)
    canvas = drawing.background(photographs[rng.integers(len(photographs))], SIDE, rng)
    cell = SIDE // GRID
    for place, thing in given.things.items():
        column, row = place.split()
        corner = (COLUMNS.index(column) * cell, ROWS.index(row) * cell)
        if thing.isdigit():
            images = digits[int(thing)]
            drawing.digit(canvas, corner, cell, images[rng.integers(len(images))], rng)
        else:
            colour, kind = thing.split()
            drawing.shape(canvas, corner, cell, colour, kind, rng)
    return canvas


def resized(picture: Image.Image, height: int, width: int) -> Image.Image:
    """The picture in another size; itself in its own."""
    if picture.size == (width, height):
        return picture
    return picture.resize((width, height), Image.Resampling.LANCZOS)
