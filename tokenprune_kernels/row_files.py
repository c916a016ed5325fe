"""Rows of files as tensors that are mapped into memory: what is not looked at is not read."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from . import column_files
from .column_files import Copied

_MATRIX_SUFFIXES = (".npy", ".safetensors")
_SUFFIXES = (*_MATRIX_SUFFIXES, *column_files.SUFFIXES)
_SAFETENSORS = {
    "F16": ("<f2", torch.float16),
    "BF16": ("<u2", torch.bfloat16),
    "F32": ("<f4", torch.float32),
    "F64": ("<f8", torch.float64),
}


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
    parts = [_open(file, tensor) for file in files]
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
    """One number for each row, from a ``.npy`` or ``.safetensors`` file: ``[count]``, of any dtype of a weight."""
    weights = _readable(Path(path), _matrix, None, 1)
    if list(weights.shape) != [count]:
        raise ValueError(f"{path}: expected a number for each of {count:,} rows, got shape {list(weights.shape)}")
    return weights


def open_picks(path: str) -> Tensor:
    """Row numbers, from a ``.npy`` file: int64 ``[M]``."""
    array = _readable(Path(path), _npy)
    if array.ndim != 1 or array.dtype != "int64":
        raise ValueError(f"{path}: expected row numbers, int64 [M], got {array.dtype} of shape {list(array.shape)}")
    return torch.from_numpy(array)


def fingerprint(paths: Sequence[str]) -> str:
    """What the files that `open_rows` reads on several machines are compared by: their names and sizes."""
    files = [(file.name, file.stat().st_size) for path in paths for file in _files(Path(path))]
    return f"{len(files)} with the digest {hashlib.sha256(repr(files).encode()).hexdigest()[:16]}"


def is_among(out: Path, paths: Sequence[str]) -> bool:
    """Whether a file is one of those that `open_rows` reads, or would be one if it were there."""
    given = [Path(path).resolve() for path in paths]
    return out.resolve() in given or (out.suffix in _SUFFIXES and out.resolve().parent in given)


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
    if not _readable(path, Path.is_dir):
        return [path]
    files = sorted(each for each in _readable(path, Path.iterdir) if each.suffix in _SUFFIXES)
    if not files:
        raise ValueError(f"{path}: expected {', '.join(_SUFFIXES)} files in the folder, got none")
    return files


def _readable(file: Path, read: Callable[..., Any], *arguments: Any) -> Any:
    try:
        return read(file, *arguments)
    except OSError as error:
        raise ValueError(f"{file}: expected a file that can be read, got {error.strerror or error}") from None


def _open(file: Path, tensor: str | None) -> Tensor | Copied:
    read = column_files.open_column if file.suffix in column_files.SUFFIXES else _matrix
    return _readable(file, read, tensor)


def _matrix(file: Path, tensor: str | None, dimensions: int = 2) -> Tensor:
    """A tensor of so many dimensions. With one, it may be float64 too."""
    if file.suffix == ".safetensors":
        return _safetensors(file, tensor, dimensions)
    if file.suffix != ".npy":
        suffixes = _SUFFIXES if dimensions == 2 else _MATRIX_SUFFIXES
        raise ValueError(f"{file}: expected a file {', '.join(suffixes)}, got another one")
    array = _npy(file)
    expected = ("float16", "float32", "float64")[: 2 if dimensions == 2 else 3]
    if array.dtype not in expected:
        raise ValueError(f"{file}: expected {_or(expected)}, got {array.dtype}")
    return torch.from_numpy(array)


def _npy(file: Path) -> Any:
    """An array, mapped. It may be written to without changing the file, as torch demands."""
    import numpy

    try:
        return numpy.lib.format.open_memmap(file, mode="c")
    except ValueError as error:
        raise ValueError(f"{file}: expected a whole .npy file of numbers, got another one ({error})") from None


def _safetensors(file: Path, tensor: str | None, dimensions: int) -> Tensor:
    import numpy

    entries = _safetensors_entries(file)
    names = [name for name, (_, shape, _) in entries.items() if len(shape) == dimensions]
    name = tensor if tensor is not None else names[0] if len(names) == 1 else None
    if name not in entries:
        wanted = "one matrix" if dimensions == 2 else "one vector"
        raise ValueError(f"{file}: expected {wanted if name is None else name}, got {', '.join(entries) or 'nothing'}")
    kind, shape, place = entries[name]
    expected = list(_SAFETENSORS)[: 3 if dimensions == 2 else 4]
    if kind not in expected:
        raise ValueError(f"{file}: expected {name} to be {_or(expected)}, got {kind}")
    stored, dtype = _SAFETENSORS[kind]
    array = numpy.memmap(file, dtype=numpy.uint8, mode="c", shape=file.stat().st_size)[place]
    if array.nbytes != math.prod(shape) * dtype.itemsize:
        raise ValueError(f"{file}: expected {math.prod(shape) * dtype.itemsize} bytes of {name}, got {array.nbytes}")
    return torch.from_numpy(array.view(stored).reshape(shape)).view(dtype)


def _safetensors_entries(file: Path) -> dict[str, tuple[str, tuple[int, ...], slice]]:
    """The dtype, the shape and the bytes of each tensor."""
    try:
        with file.open("rb") as opened:
            header_bytes = int.from_bytes(opened.read(8), "little")
            header = json.loads(opened.read(min(header_bytes, file.stat().st_size)))
        header.pop("__metadata__", None)
        return {
            name: (
                str(entry["dtype"]),
                tuple(map(int, entry["shape"])),
                slice(*(8 + header_bytes + max(0, int(offset)) for offset in entry["data_offsets"])),
            )
            for name, entry in header.items()
        }
    except (AttributeError, KeyError, TypeError, ValueError):
        raise ValueError(f"{file}: expected a safetensors file, got another one") from None


def _or(names: Sequence[str]) -> str:
    return f"{', '.join(names[:-1])} or {names[-1]}"
