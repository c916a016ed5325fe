"""How the things of a scene look."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageEnhance

RGB = {
    "red": (214, 48, 49),
    "green": (39, 174, 96),
    "blue": (41, 98, 214),
    "yellow": (241, 196, 15),
    "pink": (232, 99, 190),
}
DIGIT_SIZES, SHAPE_SIZES = (0.75, 0.95), (0.5, 0.95)
"""The least and the most, as shares of a cell."""
PLATES = ((248, 246, 240), (28, 28, 34))
"""What is behind a digit: paper with dark ink, or the reverse."""
CONTRAST, BRIGHTNESS = (0.35, 0.7), (0.6, 1.0)
"""Of the photograph behind, so that what is in front stands out without being all there is to see."""
_OVERSAMPLING = 3


def background(photograph: Image.Image, side: int, rng: np.random.Generator) -> Image.Image:
    """A square of a photograph with less contrast, sometimes mirrored."""
    edge = int(min(photograph.size) * rng.uniform(0.4, 1.0))
    left, top = (int(rng.integers(length - edge + 1)) for length in photograph.size)
    crop = photograph.crop((left, top, left + edge, top + edge)).resize((side, side), Image.Resampling.BICUBIC)
    if rng.random() < 0.5:
        crop = crop.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return ImageEnhance.Brightness(ImageEnhance.Contrast(crop).enhance(rng.uniform(*CONTRAST))).enhance(
        rng.uniform(*BRIGHTNESS)
    )


def digit(
    canvas: Image.Image, corner: tuple[int, int], cell: int, image: NDArray[np.uint8], rng: np.random.Generator
) -> None:
    """Draws a handwritten digit on a plate into a cell."""
    (left, top), size = _place(corner, cell, DIGIT_SIZES, rng)
    plate, ink = PLATES if rng.random() < 0.7 else PLATES[::-1]
    canvas.paste(plate, (left, top, left + size, top + size))
    written = Image.fromarray(image).resize((size - 6, size - 6), Image.Resampling.BICUBIC)
    canvas.paste(ink, (left + 3, top + 3), written)


def shape(
    canvas: Image.Image, corner: tuple[int, int], cell: int, colour: str, kind: str, rng: np.random.Generator
) -> None:
    """Draws a coloured shape into a cell."""
    (left, top), size = _place(corner, cell, SHAPE_SIZES, rng)
    large = size * _OVERSAMPLING
    mask = Image.new("L", (large, large))
    draw = ImageDraw.Draw(mask)
    last = large - 1
    if kind == "disc":
        draw.ellipse((0, 0, last, last), fill=255)
    elif kind == "ring":
        draw.ellipse((0, 0, last, last), fill=255)
        draw.ellipse((0.28 * large, 0.28 * large, 0.72 * large, 0.72 * large), fill=0)
    elif kind == "square":
        draw.rectangle((0.08 * large, 0.08 * large, 0.92 * large, 0.92 * large), fill=255)
    elif kind == "triangle":
        corners = [(90 + 120 * i) * math.pi / 180 for i in range(3)]
        draw.polygon([(large * (0.5 + 0.5 * math.cos(a)), large * (0.55 - 0.5 * math.sin(a))) for a in corners], 255)
    else:
        draw.rectangle((0.33 * large, 0, 0.67 * large, last), fill=255)
        draw.rectangle((0, 0.33 * large, last, 0.67 * large), fill=255)
    shade = rng.uniform(0.85, 1.1)
    fill = tuple(min(255, round(shade * channel)) for channel in RGB[colour])
    canvas.paste(fill, (left, top), mask.resize((size, size), Image.Resampling.LANCZOS))


def _place(
    corner: tuple[int, int], cell: int, sizes: tuple[float, float], rng: np.random.Generator
) -> tuple[tuple[int, int], int]:
    """The upper left corner of a thing inside its cell, and its size."""
    size = int(cell * rng.uniform(*sizes))
    left, top = (start + int(rng.integers(cell - size + 1)) for start in corner)
    return (left, top), size
