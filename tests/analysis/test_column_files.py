"""The command `select` on columns of Arrow and Parquet files."""

from pathlib import Path

import pytest
import torch

import tokenprune_kernels
from tests.support.inputs import gaussian_tokens
from tokenprune_kernels.__main__ import main
from tokenprune_kernels.column_files import Copied
from tokenprune_kernels.row_files import open_rows, share

np = pytest.importorskip("numpy")
pa = pytest.importorskip("pyarrow", reason="columns of Arrow and Parquet files need pyarrow, which is not required")
parquet = pytest.importorskip("pyarrow.parquet")

DTYPES = (torch.float16, torch.float32)


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def column(x):
    return pa.FixedSizeListArray.from_arrays(pa.array(x.numpy().ravel()), x.shape[1])


def table(x, **more):
    return pa.table({"id": pa.array(range(len(x))), "rows": column(x), **more})


def write_arrow(x, name, rows=None, stream=False, **options):
    """An Arrow file with so many rows in a record batch, of the form of a file or of a stream."""
    made = table(x)
    new = pa.ipc.new_stream if stream else pa.ipc.new_file
    with pa.OSFile(name, "wb") as file, new(file, made.schema, **options) as writer:
        writer.write_table(made, max_chunksize=rows)


def write(x, how):
    """One file, by one of several ways."""
    if how == "parquet":
        parquet.write_table(table(x), "x.parquet", row_group_size=70)
        return "x.parquet"
    if how == "one row group":
        parquet.write_table(table(x), "x.parquet", compression="zstd")
        return "x.parquet"
    if how == "compressed":
        write_arrow(x, "x.feather", options=pa.ipc.IpcWriteOptions(compression="zstd"))
        return "x.feather"
    write_arrow(x, "x.arrow", rows=60 if "batches" in how else None, stream="stream" in how)
    return "x.arrow"


WAYS = ["parquet", "one row group", "compressed", "arrow", "arrow batches", "stream", "stream batches"]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("how", WAYS)
def test_the_picks_are_those_of_the_rows(how, dtype):
    x = gaussian_tokens(200, 24).to(dtype)
    assert main(["select", write(x, how), "--k", "40"]) == 0
    assert np.load("indices.npy").tolist() == tokenprune_kernels.divprune(x, 40).tolist()


@pytest.mark.parametrize("size", [1, 2, 3, 7])
@pytest.mark.parametrize("how", WAYS)
def test_processes_copy_their_rows_alone(how, size, monkeypatch):
    x = gaussian_tokens(200, 24)
    parts = open_rows([write(x, how), write(x, how)])
    shared = [torch.cat(share(parts, rank, size)) for rank in range(size)]
    assert torch.equal(torch.cat(shared), torch.cat([x, x]))


@pytest.mark.parametrize("stream", [False, True])
def test_one_batch_that_is_not_compressed_is_mapped(stream):
    write_arrow(gaussian_tokens(200, 24), "x.arrow", stream=stream)
    (rows,) = open_rows(["x.arrow"])
    assert isinstance(rows, torch.Tensor)
    write_arrow(gaussian_tokens(200, 24), "x.arrow", rows=60, stream=stream)
    assert isinstance(open_rows(["x.arrow"])[0], Copied)


def test_a_copy_ends_with_its_tensor(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "scratch"))
    (tmp_path / "scratch").mkdir()
    x = gaussian_tokens(200, 24)
    (rows,) = share(open_rows([write(x, "parquet")]), 0, 1)
    rows[0] = 7.0  # in memory alone
    assert torch.equal(rows[1:], x[1:])
    assert list((tmp_path / "scratch").iterdir()) == []


def test_no_rows():
    x = torch.empty(0, 24)
    for how in ("parquet", "arrow"):
        (rows,) = share(open_rows([write(x, how)]), 0, 1)
        assert (rows.shape, rows.dtype) == ((0, 24), torch.float32)


def test_files_of_all_kinds_are_one_set_of_rows():
    x = gaussian_tokens(200, 24)
    np.save("a.npy", x[:50].numpy())
    write_arrow(x[50:100], "b.arrow")
    parquet.write_table(table(x[100:]), "c.parquet")
    assert main(["select", ".", "--k", "40", "--out", "picks"]) == 0
    assert np.load("picks").tolist() == tokenprune_kernels.divprune(x, 40).tolist()


def test_a_column_is_named_where_there_are_several():
    x, y = gaussian_tokens(50, 8), gaussian_tokens(50, 4, seed=1)
    parquet.write_table(table(x, others=column(y)), "x.parquet")
    assert torch.equal(open_rows(["x.parquet"], "others")[0][:], y)
    with pytest.raises(ValueError, match=r"^x.parquet: expected one column of .* got id: int64, rows: "):
        open_rows(["x.parquet"])


def write_table(made, name):
    if name.endswith("parquet"):
        parquet.write_table(made, name)
    else:
        with pa.OSFile(name, "wb") as file, pa.ipc.new_file(file, made.schema) as writer:
            writer.write_table(made)


@pytest.mark.parametrize("name", ["x.arrow", "x.parquet"])
def test_a_name_that_several_columns_have_names_none(name):
    rows, ids = column(gaussian_tokens(50, 8)), pa.array(range(50))
    for columns in ([rows, rows], [ids, rows], [rows, ids]):
        write_table(pa.Table.from_arrays(columns, ["a", "a"]), name)
        for given in (None, "a"):
            with pytest.raises(ValueError, match=f"^{name}: expected one column .* got a: .*, a: "):
                open_rows([name], given)


@pytest.mark.parametrize("name", ["x.arrow", "x.parquet"])
def test_a_dot_in_a_name_is_no_path(name):
    x = gaussian_tokens(50, 8)
    write_table(pa.table({"a": pa.array([{"b": 1}] * 50), "a.b": column(x)}), name)
    assert torch.equal(open_rows([name])[0][:], x)


@pytest.mark.parametrize("name", ["x.arrow", "x.feather", "x.parquet"])
def test_batches_and_row_groups_without_rows(name):
    x = gaussian_tokens(50, 8)
    (whole,) = table(x).to_batches()
    pieces = [whole.slice(first, length) for first, length in ((0, 0), (0, 20), (20, 0), (20, 30), (50, 0))]
    if name == "x.parquet":
        with parquet.ParquetWriter(name, whole.schema) as writer:
            for piece in pieces:
                writer.write_table(pa.Table.from_batches([piece]))
    else:
        new = pa.ipc.new_stream if name == "x.arrow" else pa.ipc.new_file
        with pa.OSFile(name, "wb") as file, new(file, whole.schema) as writer:
            for piece in pieces:
                writer.write_batch(piece)
    parts = open_rows([name, name])
    for size in (1, 3):
        shared = [torch.cat(share(parts, rank, size)) for rank in range(size)]
        assert torch.equal(torch.cat(shared), torch.cat([x, x]))


def test_of_what_is_compressed_few_batches_are_in_memory_at_a_time():
    x = gaussian_tokens(4_000, 64)
    write_arrow(x, "x.arrow", rows=100, options=pa.ipc.IpcWriteOptions(compression="zstd"))
    before = pa.total_allocated_bytes()
    (rows,) = open_rows(["x.arrow"])
    assert pa.total_allocated_bytes() - before < x.nbytes / 8
    assert torch.equal(rows[:], x)


def test_a_page_that_cannot_be_read():
    parquet.write_table(table(gaussian_tokens(200, 24)), "x.parquet")
    content = bytearray(Path("x.parquet").read_bytes())
    at = parquet.ParquetFile("x.parquet").metadata.row_group(0).column(1).data_page_offset
    content[at : at + 8] = b"\xff" * 8
    Path("x.parquet").write_bytes(content)
    with pytest.raises(ValueError, match=r"^x.parquet: expected a file that can be read, got "):
        share(open_rows(["x.parquet"]), 0, 1)


def test_no_room_for_a_copy(monkeypatch):
    parts = open_rows([write(gaussian_tokens(200, 24), "parquet")])
    monkeypatch.setattr("tempfile.tempdir", "none")
    with pytest.raises(
        ValueError, match=r"^TMPDIR: expected a folder with room for 200 rows of x.parquet, got No such"
    ):
        share(parts, 0, 1)


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (pa.array([[1.0, 2.0], [3.0, 4.0]], pa.list_(pa.float32())), "one column of fixed-size lists"),
        (
            pa.array([[1.0, 2.0], [3.0, 4.0]], pa.list_(pa.float64(), 2)),
            "or float32, got rows: fixed_size_list",
        ),
        (
            pa.array([[1.0, 2.0], None], pa.list_(pa.float32(), 2)),
            "in column rows, got missing ones",
        ),
        (pa.array([[1.0, None], [3.0, 4.0]], pa.list_(pa.float32(), 2)), "in column rows"),
        (pa.array([[], []], pa.list_(pa.float32(), 0)), r"a matrix \[N, D\] with D >= 1, got shape \[2, 0\]"),
    ],
)
@pytest.mark.parametrize("suffix", ["arrow", "parquet"])
def test_columns_that_are_not_matrices(made, message, suffix):
    write_table(pa.table({"rows": made}), f"x.{suffix}")
    with pytest.raises(ValueError, match=f"^x.{suffix}: expected .*{message}"):
        share(open_rows([f"x.{suffix}"]), 0, 1)


@pytest.mark.parametrize("suffix", ["arrow", "feather", "parquet"])
def test_other_files_and_none(suffix, tmp_path):
    (tmp_path / f"x.{suffix}").write_bytes(b"something else, which is long enough to be looked at")
    with pytest.raises(ValueError, match=f"^x.{suffix}: expected an? (Arrow|Parquet) file, got another one$"):
        open_rows([f"x.{suffix}"])
    with pytest.raises(ValueError, match=f"^none.{suffix}: expected a file that can be read, got No such file"):
        open_rows([f"none.{suffix}"])
