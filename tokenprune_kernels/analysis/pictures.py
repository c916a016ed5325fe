"""Pictures as tokens, and kept tokens as a picture, for the demo and the command line.

Needs numpy and Pillow, the ``[demo]`` extra.
"""

from __future__ import annotations

import importlib
import os
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from PIL.Image import Image

PATCH = 14
DIMENSIONS = 1024

# How much of a picture is worked on at a time, so that memory beside picture and tokens stays bounded.
_BLOCK_PATCHES = 4096
_BLOCK_LINES = 512

_SEED = 0
_MEAN = 0.5
_STANDARD_DEVIATION = 0.25

_LUMINANCE = (0.299, 0.587, 0.114)
_DIMMED_BLACK = (22.0, 25.0, 32.0)
_DIMMED_WHITE = (84.0, 88.0, 97.0)
_OUTLINE = (236, 238, 242)


def open_picture(path: str | os.PathLike[str], longest_side: int | None = None) -> Image:
    """Reads a picture file, upright.

    Args:
        path: a file of any format that Pillow reads.
        longest_side: how many pixels the longer side may have; a larger picture is scaled down. None leaves all.

    Returns:
        The picture in RGB mode.

    Raises:
        ValueError: if there is no such file, or it is not a picture, or broken, or has more than 8 bits per channel.
        ImportError: without Pillow.
    """
    images, operations = _needed("PIL.Image"), _needed("PIL.ImageOps")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a broken file is one error, without the warnings before it
            with images.open(path) as picture:
                # Pillow would cut them off, in colour already while it decodes.
                if picture.mode.startswith(("I", "F")) or any(";16" in str(tile) for tile in picture.tile):
                    raise ValueError(f"mode {picture.mode}: more than 8 bits per channel")
                upright = operations.exif_transpose(picture).convert("RGB")
    except Exception as error:  # decoders raise errors of many kinds on broken files
        raise ValueError(f"picture: expected a readable picture file, got {str(path)!r} ({_reason(error)})") from error
    if longest_side is not None:
        upright.thumbnail((longest_side, longest_side))
    return upright


def save_picture(picture: Image, path: str | os.PathLike[str]) -> None:
    """Writes a picture in the format that the ending of the path names.

    Raises:
        ValueError: if the ending is of no format that Pillow writes, or the path cannot be written.
    """
    images = _needed("PIL.Image")
    if images.registered_extensions().get(Path(path).suffix.lower()) not in images.SAVE:
        raise ValueError(f"picture: expected a path that ends like a picture file, such as kept.png, got {str(path)!r}")
    try:
        picture.save(path)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"picture: expected a path that can be written, got {str(path)!r} ({_reason(error)})"
        ) from error


def patch_grid(picture: Image) -> tuple[int, int]:
    """Returns how many rows and columns of whole 14 x 14 patches the picture has; ValueError where it has none."""
    rows, columns = picture.height // PATCH, picture.width // PATCH
    if rows == 0 or columns == 0:
        got = f"{picture.width} x {picture.height}"
        raise ValueError(f"picture: expected at least {PATCH} x {PATCH} pixels, got {got}")
    return rows, columns


def patch_tokens(picture: Image, dimensions: int = DIMENSIONS, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    """One token per patch: a fixed linear map of its pixels, like the first layer of a vision transformer.

    Channels are scaled to [0, 1] and normalised by mean 0.5 and standard deviation 0.25; the matrix is Gaussian and
    seeded, so that a picture always gives the same tokens.

    Args:
        picture: an RGB picture of at least 14 x 14 pixels; what exceeds whole patches at the right and at the bottom
            is left out.
        dimensions: D.
        dtype: of the tokens.

    Returns:
        ``[N, D]``, patches row by row.

    Raises:
        ValueError: for a picture that is smaller than one patch.
        ImportError: without numpy.
    """
    rows, columns = patch_grid(picture)
    pixels, embedding = _whole_patches(picture), _embedding(dimensions)
    tokens = torch.empty(rows * columns, dimensions, dtype=dtype, device="cpu")
    for begin in range(0, rows, step := max(1, _BLOCK_PATCHES // columns)):
        end = min(rows, begin + step)
        patches = torch.from_numpy(_patches(pixels[begin * PATCH : end * PATCH]))
        normalised = (patches.double() / 255.0 - _MEAN) / _STANDARD_DEVIATION
        # In float64, the order in which a matrix product sums does not reach the bfloat16 result.
        tokens[begin * columns : end * columns] = (normalised @ embedding).to(dtype)
    return tokens


def draw_kept(picture: Image, kept: Tensor) -> Image:
    """Draws the picture with its kept patches outlined, and the dropped ones dim and without colour.

    Args:
        picture: the RGB picture that the tokens came from.
        kept: numbers of the kept patches, int64 ``[k]``, in any order.

    Returns:
        An RGB picture of whole patches, ``(14 * columns, 14 * rows)`` pixels. The outlines lie on dropped patches.

    Raises:
        ValueError: for a picture that is smaller than one patch, or a number outside ``[0, N)``.
        ImportError: without numpy or Pillow.
    """
    numpy, images = _needed("numpy"), _needed("PIL.Image")
    rows, columns = patch_grid(picture)
    outside = kept[(kept < 0) | (kept >= rows * columns)]
    if len(outside):
        raise ValueError(f"kept: expected patch numbers in [0, {rows * columns}), got {int(outside[0])}")
    chosen = numpy.zeros(rows * columns, dtype=bool)
    chosen[kept.cpu().numpy()] = True
    chosen = chosen.reshape(rows, columns).repeat(PATCH, axis=0).repeat(PATCH, axis=1)
    pixels = _whole_patches(picture).copy()
    outline = _touching(chosen)
    for begin in range(0, len(pixels), _BLOCK_LINES):
        lines = slice(begin, begin + _BLOCK_LINES)
        brightness = (pixels[lines] @ numpy.array(_LUMINANCE) / 255.0)[..., None]
        dimmed = _DIMMED_BLACK + brightness * numpy.subtract(_DIMMED_WHITE, _DIMMED_BLACK)
        dimmed[outline[lines]] = _OUTLINE
        pixels[lines] = numpy.where(chosen[lines][..., None], pixels[lines], dimmed.round()).astype(numpy.uint8)
    return images.fromarray(pixels)


def _needed(module: str) -> Any:
    """Imports a module of the ``[demo]`` extra."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(
            "pictures: expected numpy and Pillow to be installed (pip install 'tokenprune_kernels[demo]'), "
            f"got {_reason(error)}"
        ) from error


def _reason(error: Exception) -> str:
    """What went wrong, in one line."""
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return " ".join(text.split())


def _whole_patches(picture: Image) -> Any:
    """The pixels of all whole patches, uint8 ``[14 * rows, 14 * columns, 3]``."""
    rows, columns = patch_grid(picture)
    return _needed("numpy").array(picture)[: rows * PATCH, : columns * PATCH]


def _patches(pixels: Any) -> Any:
    """The pixels of each patch, uint8 ``[N, 14 * 14 * 3]``, of whole patches ``[14 * rows, 14 * columns, 3]``."""
    rows, columns = pixels.shape[0] // PATCH, pixels.shape[1] // PATCH
    pixels = pixels.reshape(rows, PATCH, columns, PATCH, 3)
    return pixels.transpose(0, 2, 1, 3, 4).reshape(rows * columns, -1)


def _embedding(dimensions: int) -> Tensor:
    """The seeded matrix, float64 ``[14 * 14 * 3, D]``, scaled to keep the size of normalised pixels."""
    pixels = PATCH * PATCH * 3
    generator = torch.Generator("cpu").manual_seed(_SEED)
    return torch.randn(pixels, dimensions, generator=generator, dtype=torch.float64, device="cpu") / pixels**0.5


def _touching(chosen: Any) -> Any:
    """Returns which pixels touch a chosen one, diagonally too, and are not chosen: bool like ``chosen``."""
    height, width = chosen.shape
    padded = _needed("numpy").pad(chosen, 1)
    near = chosen.copy()
    for down in range(3):
        for right in range(3):
            near |= padded[down : down + height, right : right + width]
    return near & ~chosen
