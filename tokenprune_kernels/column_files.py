"""Rows in a column of an Arrow or Parquet file, whose values are fixed-size lists."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

SUFFIXES = (".arrow", ".feather", ".parquet")
_ROWS_AT_A_TIME = 1 << 14


class Copied:
    """Rows of a file that cannot be mapped as they are. A slice of them is a tensor, mapped from a temporary file.

    Args:
        count: how many rows there are.
        depth: D.
        dtype: of their elements, float16 or float32.
        blocks: the rows from a number on, as arrays ``[n, D]``.

    The temporary file has the size of the rows of the slice. It is in the folder that ``TMPDIR`` names, and ends with
    the tensor.
    """

    def __init__(self, count: int, depth: int, dtype: torch.dtype, blocks: Callable[[int], Iterator[Any]]) -> None:
        self.shape = (count, depth)
        self.dtype = dtype
        self._blocks = blocks

    def __len__(self) -> int:
        return self.shape[0]

    def dim(self) -> int:
        """As of a tensor."""
        return 2

    def __getitem__(self, rows: slice) -> Tensor:
        import numpy

        first, last, _ = rows.indices(len(self))
        if last <= first:
            return torch.empty((0, self.shape[1]), dtype=self.dtype)
        written = 0
        with tempfile.TemporaryFile() as file:
            for block in self._blocks(first):
                wanted = numpy.ascontiguousarray(block[: last - first - written])
                file.write(wanted.data)
                written += len(wanted)
                if written == last - first:
                    break
            file.flush()
            kind = "<f2" if self.dtype == torch.float16 else "<f4"
            return torch.from_numpy(numpy.memmap(file, dtype=kind, mode="c", shape=(written, self.shape[1])))


def open_column(file: Path, name: str | None) -> Tensor | Copied:
    """The rows of a file, in the only column of fixed-size lists of float16 or float32, or in that of a name.

    An Arrow file with one uncompressed record batch is mapped. Other files are copied, a block of rows at a time.

    Raises:
        ImportError: pyarrow is not installed.
        ValueError: there is no such column, or a value is missing in it.
        OSError: the file cannot be read.
    """
    try:
        import pyarrow
    except ImportError:
        raise ImportError(f"{file}: expected pyarrow to be installed, got no module of that name") from None
    file.stat()  # its error says more than that of pyarrow
    try:
        return _parquet(file, name) if file.suffix == ".parquet" else _arrow(file, name)
    except pyarrow.ArrowInvalid:
        kind = "a Parquet" if file.suffix == ".parquet" else "an Arrow"
        raise ValueError(f"{file}: expected {kind} file, got another one") from None


def _parquet(file: Path, name: str | None) -> Copied:
    from pyarrow import parquet

    opened = parquet.ParquetFile(file, memory_map=True)
    name, depth, dtype = _column(file, opened.schema_arrow, name)
    counts = [opened.metadata.row_group(group).num_rows for group in range(opened.num_row_groups)]

    def blocks(first: int) -> Iterator[Any]:
        group = 0
        while first >= counts[group]:
            first -= counts[group]
            group += 1
        groups = list(range(group, len(counts)))
        for batch in opened.iter_batches(_ROWS_AT_A_TIME, row_groups=groups, columns=[name]):
            if first < len(batch):
                yield _rows(file, name, batch.column(0))[first:]
            first = max(0, first - len(batch))

    return Copied(sum(counts), depth, dtype, blocks)


def _arrow(file: Path, name: str | None) -> Tensor | Copied:
    import pyarrow

    mapped = pyarrow.memory_map(str(file))
    try:
        opened = pyarrow.ipc.open_file(mapped)
        batches = [opened.get_batch(number) for number in range(opened.num_record_batches)]
    except pyarrow.ArrowInvalid:  # the form that is written as a stream, as by the package datasets
        mapped.seek(0)
        opened = pyarrow.ipc.open_stream(mapped)
        batches = list(opened)
    name, depth, dtype = _column(file, opened.schema, name)
    columns = [_rows(file, name, batch.column(batch.schema.get_field_index(name))) for batch in batches]
    if len(columns) == 1:
        mapped.seek(0)
        whole = mapped.read_buffer()
        offset = columns[0].__array_interface__["data"][0] - whole.address
        if 0 <= offset < whole.size:
            return _mapped(file, offset, columns[0])

    def blocks(first: int) -> Iterator[Any]:
        for column in columns:
            for start in range(first, len(column), _ROWS_AT_A_TIME):
                yield column[start : start + _ROWS_AT_A_TIME]
            first = max(0, first - len(column))

    return Copied(sum(map(len, columns)), depth, dtype, blocks)


def _mapped(file: Path, offset: int, column: Any) -> Tensor:
    """The same rows in a map of its own, which may be written to without changing the file, as torch demands."""
    import numpy

    return torch.from_numpy(numpy.memmap(file, dtype=column.dtype, mode="c", offset=offset, shape=column.shape))


def _column(file: Path, schema: Any, name: str | None) -> tuple[str, int, torch.dtype]:
    """The name of the column, D and the dtype."""
    from pyarrow import types

    found = {}
    for field in schema:
        if types.is_fixed_size_list(field.type):
            element = field.type.value_type
            if types.is_float16(element) or types.is_float32(element):
                dtype = torch.float16 if types.is_float16(element) else torch.float32
                found[field.name] = field.type.list_size, dtype
    only = next(iter(found)) if len(found) == 1 else None
    wanted = only if name is None else name
    if wanted is None or wanted not in found:
        columns = ", ".join(f"{field.name}: {field.type}" for field in schema) or "nothing"
        which = "one column" if name is None else f"a column {name}"
        raise ValueError(f"{file}: expected {which} of fixed-size lists of float16 or float32, got {columns}")
    return (wanted, *found[wanted])


def _rows(file: Path, name: str, column: Any) -> Any:
    """An array ``[n, D]``, without a copy."""
    values = column.flatten()
    if column.null_count or values.null_count:
        raise ValueError(f"{file}: expected a value everywhere in column {name}, got missing ones")
    return values.to_numpy(zero_copy_only=True).reshape(len(column), -1 if len(column) else column.type.list_size)
