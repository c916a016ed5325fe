"""Rows of files as tensors that are mapped into memory: what is not looked at is not read."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from . import column_files
from .column_files import Copied

_SUFFIXES = (".npy", ".safetensors", *column_files.SUFFIXES)
_SAFETENSORS = {"F16": ("<f2", torch.float16), "BF16": ("<u2", torch.bfloat16), "F32": ("<f4", torch.float32)}


def open_rows(paths: Sequence[str], tensor: str | None = None) -> list[Tensor | Copied]:
    """The rows of files, and of all files of folders, in the order of their names.

    Args:
        paths: ``.npy`` and ``.safetensors`` files with a matrix ``[N, D]``, ``.arrow``, ``.feather`` and ``.parquet``
            files with a column of fixed-size lists, or folders of such files.
        tensor: the name of the matrix or column in files that have several.

    Returns:
        A tensor ``[N, D]`` for each file, or what becomes one in `share`, of one D and one dtype: float16, bfloat16 or
        float32.

    Raises:
        ValueError: a file cannot be read, is no such file, or differs from the first one in D or dtype.
        ImportError: numpy is not installed, or pyarrow for files that need it.
    """
    files = [file for path in paths for file in _files(Path(path))]
    parts = [
        _readable(column_files.open_column if file.suffix in column_files.SUFFIXES else _matrix, file, tensor)
        for file in files
    ]
    for file, part in zip(files, parts, strict=True):
        if part.dim() != 2 or part.shape[1] == 0:
            raise ValueError(f"{file}: expected a matrix [N, D] with D >= 1, got shape {list(part.shape)}")
        expected, got = ((each.shape[1], each.dtype) for each in (parts[0], part))
        if got != expected:
            raise ValueError(
                f"{file}: expected D = {expected[0]} and {expected[1]}, as in {files[0]}, got D = {got[0]} and {got[1]}"
            )
    return parts


def open_weights(path: str, count: int) -> Tensor:
    """One number for each row, from a ``.npy`` or ``.safetensors`` file: ``[count]``."""
    weights = _readable(partial(_matrix, dimensions=1), Path(path), None)
    if list(weights.shape) != [count]:
        raise ValueError(f"{path}: expected a number for each of {count:,} rows, got shape {list(weights.shape)}")
    return weights


def share(parts: Sequence[Tensor | Copied], rank: int, size: int) -> list[Tensor]:
    """The rows of one of several processes, which have as many each. Tensors are not copied."""
    total = sum(len(part) for part in parts)
    begin, end = total * rank // size, total * (rank + 1) // size
    mine, start = [], 0
    for part in parts:
        first, last = max(begin - start, 0), min(end - start, len(part))
        if first < last:
            mine.append(part[first:last])
        start += len(part)
    return mine or [parts[0][:0]]


def _files(path: Path) -> list[Path]:
    files = sorted(each for each in path.iterdir() if each.suffix in _SUFFIXES) if path.is_dir() else [path]
    if not files:
        raise ValueError(f"{path}: expected {', '.join(_SUFFIXES)} files in the folder, got none")
    return files


def _readable(read: Callable[..., Any], file: Path, name: str | None) -> Any:
    try:
        return read(file, name)
    except OSError as error:
        raise ValueError(f"{file}: expected a file that can be read, got {error.strerror or error}") from None


def _matrix(file: Path, tensor: str | None, dimensions: int = 2) -> Tensor:
    if file.suffix == ".npy":
        return _npy(file)
    if file.suffix == ".safetensors":
        return _safetensors(file, tensor, dimensions)
    expected = ", ".join(_SUFFIXES if dimensions == 2 else _SUFFIXES[:2])
    raise ValueError(f"{file}: expected a file {expected}")


def _npy(file: Path) -> Tensor:
    import numpy

    array = numpy.load(file, mmap_mode="c")
    if array.dtype not in (numpy.float16, numpy.float32) and array.ndim > 1:
        raise ValueError(f"{file}: expected float16 or float32, got {array.dtype}")
    return torch.from_numpy(array)


def _safetensors(file: Path, tensor: str | None, dimensions: int) -> Tensor:
    import numpy

    with file.open("rb") as opened:
        header_bytes = int.from_bytes(opened.read(8), "little")
        try:
            header: dict[str, Any] = json.loads(opened.read(header_bytes))
        except ValueError:
            raise ValueError(f"{file}: expected a safetensors file, got none with a header") from None
    header.pop("__metadata__", None)
    names = [name for name, entry in header.items() if len(entry["shape"]) == dimensions]
    name = tensor if dimensions == 2 and tensor is not None else names[0] if len(names) == 1 else None
    if name not in header:
        wanted = "one matrix" if dimensions == 2 else "one vector"
        raise ValueError(f"{file}: expected {wanted if name is None else name}, got {', '.join(header) or 'nothing'}")
    entry = header[name]
    if entry["dtype"] not in _SAFETENSORS:
        raise ValueError(f"{file}: expected {name} to be F16, BF16 or F32, got {entry['dtype']}")
    kind, dtype = _SAFETENSORS[entry["dtype"]]
    if 0 in entry["shape"]:
        return torch.empty(entry["shape"], dtype=dtype)
    offset = 8 + header_bytes + entry["data_offsets"][0]
    array = numpy.memmap(file, dtype=kind, mode="c", offset=offset, shape=tuple(entry["shape"]))
    return torch.from_numpy(array).view(dtype)
