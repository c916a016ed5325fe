"""The command `select` on columns of Arrow and Parquet files."""

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
    ],
)
@pytest.mark.parametrize("suffix", ["arrow", "parquet"])
def test_columns_that_are_not_matrices(made, message, suffix):
    rows = pa.table({"rows": made})
    if suffix == "parquet":
        parquet.write_table(rows, "x.parquet")
    else:
        with pa.OSFile("x.arrow", "wb") as file, pa.ipc.new_file(file, rows.schema) as writer:
            writer.write_table(rows)
    with pytest.raises(ValueError, match=f"^x.{suffix}: expected .*{message}"):
        share(open_rows([f"x.{suffix}"]), 0, 1)


@pytest.mark.parametrize("suffix", ["arrow", "feather", "parquet"])
def test_other_files_and_none(suffix, tmp_path):
    (tmp_path / f"x.{suffix}").write_bytes(b"something else, which is long enough to be looked at")
    with pytest.raises(ValueError, match=f"^x.{suffix}: expected an? (Arrow|Parquet) file, got another one$"):
        open_rows([f"x.{suffix}"])
    with pytest.raises(ValueError, match=f"^none.{suffix}: expected a file that can be read, got No such file"):
        open_rows([f"none.{suffix}"])
