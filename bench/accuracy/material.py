"""What scenes are made of: handwritten digits of scikit-learn, photographs of scikit-image and scikit-learn.

All of it ships inside the two packages. A digit image or a photograph is in training or held-out scenes, never in both.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

TRAINING, HELD_OUT = "training", "held-out"
SPLITS = (TRAINING, HELD_OUT)
DIGIT_SEED = 11
HELD_OUT_DIGITS = 0.3
"""The share of digit images that only held-out scenes have."""

# The two eyes' views of the motorcycle are one photograph. china.jpg and flower.jpg are scikit-learn's. Left out are
# drawings, pages of text and micrographs of one colour, in front of which anything stands out.
PHOTOGRAPHS = {
    TRAINING: (
        "astronaut.png",
        "camera.png",
        "coins.png",
        "flower.jpg",
        "grass.png",
        "hubble_deep_field.jpg",
        "ihc.png",
        "moon.png",
        "motorcycle_left.png",
        "motorcycle_right.png",
        "rocket.jpg",
    ),
    HELD_OUT: ("brick.png", "chelsea.png", "china.jpg", "clock_motion.png", "coffee.png", "gravel.png", "retina.jpg"),
}


@functools.cache
def digits(split: str) -> tuple[NDArray[np.uint8], ...]:
    """For each digit the images ``[n, 8, 8]`` of a split, 0 for paper and 255 for ink."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    shuffled = np.random.default_rng(DIGIT_SEED).permutation(len(labels))
    held_out = np.isin(np.arange(len(labels)), shuffled[: round(HELD_OUT_DIGITS * len(labels))])
    chosen = held_out if split == HELD_OUT else ~held_out
    ink = np.round(images.reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)
    return tuple(ink[chosen & (labels == digit)] for digit in range(10))


@functools.cache
def photographs(split: str) -> Sequence[Image.Image]:
    """The photographs of a split, in RGB."""
    return [Image.open(_path(name)).convert("RGB") for name in PHOTOGRAPHS[split]]


def _path(name: str) -> Path:
    import skimage
    import sklearn.datasets

    folders = (Path(skimage.data_dir), Path(sklearn.datasets.__file__).parent / "images")
    return next(folder / name for folder in folders if (folder / name).exists())
