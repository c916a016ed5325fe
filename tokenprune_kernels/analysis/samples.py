"""The samples of an analysis: tokens of a picture, of a saved tensor, or of a vision tower, with their importance."""

from __future__ import annotations

import functools
import importlib
import json
import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .. import importance
from . import pictures

if TYPE_CHECKING:
    from PIL.Image import Image

_BLANK = (150, 150, 150)


@dataclass(frozen=True)
class Sample:
    """The tokens of one item.

    Attributes:
        name: the name in figures and tables.
        x: ``[N, D]``, float16, bfloat16 or float32.
        importance: float32 ``[N]``, finite and not negative.
        weighed_by: where importance comes from, for labels.
        grid: the rows and columns of the patches that the tokens stand for, row by row; None where unknown.
        picture: the picture to draw the patches on, ``(14 * columns, 14 * rows)`` pixels; None without a grid.
    """

    name: str
    x: Tensor
    importance: Tensor
    weighed_by: str
    grid: tuple[int, int] | None = None
    picture: Image | None = None

    @functools.cached_property
    def x64(self) -> Tensor:
        """The tokens in float64, for the measures."""
        return self.x.double()


def from_picture(path: str | os.PathLike[str], longest_side: int | None = None) -> Sample:
    """Makes a sample of a picture's 14 x 14 patches, embedded by a seeded linear map, with the norm as importance.

    Args:
        path: a picture file.
        longest_side: how many pixels the longer side may have; a larger picture is scaled down.

    Raises:
        ValueError: for a file that is not a picture, or smaller than a patch.
    """
    picture = pictures.open_picture(path, longest_side)
    x, (rows, columns) = pictures.patch_tokens(picture), pictures.patch_grid(picture)
    drawn = picture.crop((0, 0, pictures.PATCH * columns, pictures.PATCH * rows))
    return Sample(Path(path).stem, x, importance.norm(x), "norm", (rows, columns), drawn)


def from_features(
    path: str | os.PathLike[str], image_paths: list[str] | None = None, names: list[str] | None = None
) -> list[Sample]:
    """Makes samples of a user's own features, from a safetensors file.

    Args:
        path: a file with ``features``, ``[N, D]`` or ``[B, N, D]``, float16, bfloat16 or float32, or with no other
            tensor than these, under any name. It may hold ``importance``, ``[N]`` or ``[B, N]``, finite and not
            negative, by default the norms; and ``grid``, the rows and columns of patches, by default a square where N
            is one.
        image_paths: the pictures that the items came from, to draw on: one for each, or none.
        names: of the items; by default those of the pictures, or of the file with numbers.

    Raises:
        ValueError: for a file that is not readable as safetensors, or does not hold what it should.
        ImportError: without safetensors.
    """
    tensors = _read_safetensors(path)
    features = tensors.get("features")
    if features is None:
        if len(tensors) != 1:
            got = ", ".join(sorted(tensors)) or "no tensor"
            raise ValueError(f"features: expected a tensor named features, or a single one, got {got}")
        (features,) = tensors.values()
    if features.dim() == 2:
        features = features.unsqueeze(0)
    if features.dim() != 3 or 0 in features.shape:
        raise ValueError(f"features: expected shape [N, D] or [B, N, D], got {list(features.shape)}")
    if features.dtype not in (torch.float16, torch.bfloat16, torch.float32):
        raise ValueError(f"features: expected float16, bfloat16 or float32, got {features.dtype}")
    if not features.isfinite().all():
        raise ValueError("features: expected finite values, got NaN or infinity")
    if not importance.norm(features).isfinite().all():
        raise ValueError("features: expected values whose norms are finite in float32, got larger ones")
    items, count = features.shape[:2]
    weights = _importance(tensors.get("importance"), items, count)
    grid = _grid(tensors.get("grid"), count)
    paths = image_paths or []
    if paths and len(paths) != items:
        raise ValueError(f"features: expected as many items as pictures, {len(paths)}, got {items}")
    if paths and grid is None:
        raise ValueError(f"features: expected a tensor named grid to draw N = {count} tokens, got none")
    stem = Path(path).stem
    names = names or [Path(each).stem for each in paths] or [f"{stem} {i}" if items > 1 else stem for i in range(items)]
    return [
        Sample(
            names[i],
            features[i],
            importance.norm(features[i]) if weights is None else weights[i],
            "norm" if weights is None else "saved importance",
            grid,
            _drawn(paths[i] if paths else None, grid),
        )
        for i in range(items)
    ]


def load_vision_tower(path: str | os.PathLike[str]) -> Callable[[str], Sample]:
    """Returns a function that makes a sample of a picture file by a transformers vision tower, such as CLIP's.

    The whole picture is resized to the tower's input. The tokens are the patches of the last layer but one, as in
    LLaVA. Importance is the attention of the class token in that layer, or the norm where there is no class token.

    Args:
        path: a directory with ``config.json`` and weights as safetensors; nothing is downloaded, unpickled, or run.

    Raises:
        ValueError: for a path that is no such directory, or a tower without one token for each patch.
        ImportError: without transformers.
    """
    if not (Path(path) / "config.json").is_file():
        raise ValueError(f"vision tower: expected a directory with config.json, got {str(path)!r}")
    transformers = _needed("transformers", "transformers")
    try:
        model = transformers.AutoModel.from_pretrained(
            path, local_files_only=True, use_safetensors=True, trust_remote_code=False, attn_implementation="eager"
        ).eval()
    except (OSError, ValueError, KeyError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(
            f"vision tower: expected a model that loads from safetensors, got {str(path)!r} ({reason})"
        ) from error
    tower = getattr(model, "vision_model", model)
    config = tower.config
    size, patch = getattr(config, "image_size", None), getattr(config, "patch_size", None)
    if not isinstance(size, int) or not isinstance(patch, int):
        raise ValueError(f"vision tower: expected one with image_size and patch_size, got {config.model_type}")
    mean, deviation = _normalisation(Path(path))

    def sample(image_path: str) -> Sample:
        side = size // patch
        pixels = _pixels(pictures.open_picture(image_path).resize((size, size)))
        with torch.no_grad():
            out = tower(
                ((pixels - mean) / deviation).unsqueeze(0).to(next(tower.parameters()).dtype),
                output_hidden_states=True,
                output_attentions=True,
            )
        tokens = out.hidden_states[-2][0].float()
        extra = len(tokens) - side**2
        if extra not in (0, 1):
            raise ValueError(f"vision tower: expected {side**2} patches and at most a class token, got {len(tokens)}")
        weights, weighed_by = importance.norm(tokens), "norm"
        if extra:
            # The attention of the layer that made these tokens. A tower of one layer has no other.
            layer = out.attentions[-2 if len(out.attentions) > 1 else -1]
            weights, weighed_by = layer[0].float().mean(dim=0)[0, 1:], "class attention"
            tokens = tokens[1:]
        grid = (side, side)
        return Sample(Path(image_path).stem, tokens, weights, weighed_by, grid, _drawn(image_path, grid))

    return sample


def _read_safetensors(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    safetensors = _needed("safetensors.torch", "safetensors")
    try:
        return safetensors.load_file(path)
    except Exception as error:  # safetensors raises an error class of its own
        reason = " ".join(str(error).split())
        raise ValueError(f"features: expected a readable safetensors file, got {str(path)!r} ({reason})") from error


def _importance(weights: Tensor | None, items: int, count: int) -> Tensor | None:
    if weights is None:
        return None
    if weights.numel() != items * count or weights.shape[-1:] != (count,) or not weights.is_floating_point():
        raise ValueError(
            f"features: expected importance to be floating, {[items, count]}, got {weights.dtype} {list(weights.shape)}"
        )
    weights = weights.reshape(items, count).float()
    if not weights.isfinite().all() or (weights < 0).any():
        raise ValueError("features: expected importance to be finite and not negative")
    return weights


def _grid(grid: Tensor | None, count: int) -> tuple[int, int] | None:
    if grid is None:
        side = math.isqrt(count)
        return (side, side) if side**2 == count else None
    sides = grid.flatten().tolist()
    whole = not grid.is_complex() and all(side >= 1 and side % 1 == 0 for side in sides)
    if len(sides) != 2 or not whole or math.prod(sides) != count:
        raise ValueError(f"features: expected grid to hold the rows and columns of {count} patches, got {sides}")
    return int(sides[0]), int(sides[1])


def _drawn(image_path: str | None, grid: tuple[int, int] | None) -> Image | None:
    """The picture in the size of its grid, or a blank one."""
    if grid is None:
        return None
    rows, columns = grid
    size = (pictures.PATCH * columns, pictures.PATCH * rows)
    if image_path is None:
        return _needed("PIL.Image", "pillow").new("RGB", size, _BLANK)
    return pictures.open_picture(image_path).resize(size)


def _pixels(picture: Image) -> Tensor:
    """float32 ``[3, height, width]`` in [0, 1]."""
    return torch.from_numpy(_needed("numpy", "numpy").array(picture)).permute(2, 0, 1).float() / 255


def _normalisation(path: Path) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of the channels, ``[3, 1, 1]``: the processor's, or 1/2 each."""
    settings = {}
    if (path / "preprocessor_config.json").is_file():
        settings = json.loads((path / "preprocessor_config.json").read_text())
    mean, deviation = (
        torch.tensor(settings.get(name) or [0.5] * 3).reshape(3, 1, 1) for name in ("image_mean", "image_std")
    )
    return mean, deviation


def _needed(module: str, package: str) -> Any:
    """Imports a module of the ``[analyse]`` extra."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(
            f"analyse: expected {package} to be installed (pip install 'tokenprune_kernels[analyse]'), got {error}"
        ) from error
