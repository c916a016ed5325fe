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
        file: where they are.
        count: how many rows there are.
        depth: D.
        dtype: of their elements, float16 or float32.
        arrays: the rows from a number on, as arrays ``[n, D]``, some of them empty.

    The temporary file has the size of the rows of the slice. It is in the folder that ``TMPDIR`` names, and ends with
    the tensor.
    """

    def __init__(
        self, file: Path, count: int, depth: int, dtype: torch.dtype, arrays: Callable[[int], Iterator[Any]]
    ) -> None:
        self._file = file
        self.shape = (count, depth)
        self.dtype = dtype
        self._arrays = arrays

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
        kind = "<f2" if self.dtype == torch.float16 else "<f4"
        written = 0
        try:
            with tempfile.TemporaryFile() as copy:
                for array in self._from(first):
                    wanted = array[: last - first - written]
                    copy.write(wanted.data)
                    written += len(wanted)
                    if written == last - first:
                        break
                copy.flush()
                return torch.from_numpy(numpy.memmap(copy, dtype=kind, mode="c", shape=(written, self.shape[1])))
        except OSError as error:
            raise ValueError(
                f"TMPDIR: expected a folder with room for {last - first:,} rows of {self._file}, got "
                f"{error.strerror or error}"
            ) from None

    def _from(self, first: int) -> Iterator[Any]:
        import pyarrow

        try:
            yield from self._arrays(first)
        except (OSError, pyarrow.ArrowInvalid) as error:
            raise ValueError(f"{self._file}: expected a file that can be read, got {error}") from None


def open_column(file: Path, name: str | None) -> Tensor | Copied:
    """The rows of a file, in the only column of fixed-size lists of float16 or float32, or in that of a name.

    An Arrow file with one uncompressed record batch is mapped. Other files are copied, some rows at a time.

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
    number, depth, dtype = _column(file, opened.schema_arrow, name)
    name = opened.schema_arrow.names[number]
    counts = [opened.metadata.row_group(group).num_rows for group in range(opened.num_row_groups)]

    def arrays(first: int) -> Iterator[Any]:
        group = 0
        while first >= counts[group]:
            first -= counts[group]
            group += 1
        groups = list(range(group, len(counts)))
        for batch in opened.iter_batches(_ROWS_AT_A_TIME, row_groups=groups, columns=[name]):
            column = _rows(file, name, batch.column(batch.schema.get_field_index(name)))
            yield column[first:]
            first = max(0, first - len(column))

    return Copied(file, sum(counts), depth, dtype, arrays)


def _arrow(file: Path, name: str | None) -> Tensor | Copied:
    import pyarrow

    mapped = pyarrow.memory_map(str(file))
    schema, _ = _batches(mapped)
    number, depth, dtype = _column(file, schema, name)

    def arrays(first: int) -> Iterator[Any]:
        """One after the other: what is compressed may not fit into memory as a whole."""
        for batch in _batches(mapped)[1]:
            column = _rows(file, schema.names[number], batch.column(number))
            yield column[first:]
            first = max(0, first - len(column))

    lengths: list[int] = []
    last: Any = None
    for last in arrays(0):
        lengths.append(len(last))
    if len(lengths) == 1:
        mapped.seek(0)
        whole = mapped.read_buffer()
        offset = last.__array_interface__["data"][0] - whole.address
        if 0 <= offset < whole.size:
            return _mapped(file, offset, last)
    return Copied(file, sum(lengths), depth, dtype, arrays)


def _batches(mapped: Any) -> tuple[Any, Iterator[Any]]:
    """The schema of a file, or of a stream as the package datasets writes it, and its record batches."""
    import pyarrow

    mapped.seek(0)
    try:
        opened = pyarrow.ipc.open_file(mapped)
    except pyarrow.ArrowInvalid:
        mapped.seek(0)
        stream = pyarrow.ipc.open_stream(mapped)
        return stream.schema, iter(stream)
    return opened.schema, map(opened.get_batch, range(opened.num_record_batches))


def _mapped(file: Path, offset: int, column: Any) -> Tensor:
    """The same rows in a map of its own, which may be written to without changing the file, as torch demands."""
    import numpy

    return torch.from_numpy(numpy.memmap(file, dtype=column.dtype, mode="c", offset=offset, shape=column.shape))


def _column(file: Path, schema: Any, name: str | None) -> tuple[int, int, torch.dtype]:
    """The number of the column, D and the dtype."""
    from pyarrow import types

    found = []
    for number, field in enumerate(schema):
        if name in (None, field.name) and types.is_fixed_size_list(field.type):
            element = field.type.value_type
            if types.is_float16(element) or types.is_float32(element):
                dtype = torch.float16 if types.is_float16(element) else torch.float32
                found.append((number, field.type.list_size, dtype))
    if len(found) != 1 or schema.names.count(schema.names[found[0][0]]) > 1:
        columns = ", ".join(f"{field.name}: {field.type}" for field in schema) or "nothing"
        which = "one column" if name is None else f"one column {name}"
        raise ValueError(f"{file}: expected {which} of fixed-size lists of float16 or float32, got {columns}")
    return found[0]


def _rows(file: Path, name: str, column: Any) -> Any:
    """An array ``[n, D]``, without a copy."""
    values = column.flatten()
    if column.null_count or values.null_count:
        raise ValueError(f"{file}: expected a value everywhere in column {name}, got missing ones")
    return values.to_numpy(zero_copy_only=True).reshape(len(column), column.type.list_size)
