"""The command `select`: rows of files, without reading more of them than it must."""

import io
import itertools
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import tokenprune_kernels
from tests.support.inputs import gaussian_tokens, random_weight
from tokenprune_kernels.__main__ import main
from tokenprune_kernels.distributed.selection import Progress
from tokenprune_kernels.row_files import open_rows, share

np = pytest.importorskip("numpy")
safetensors = pytest.importorskip("safetensors.torch")


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def x():
    """Rows in two files of a folder, and in one file with other tensors."""
    x = gaussian_tokens(500, 24)
    Path("folder").mkdir()
    np.save("folder/a.npy", x[:123].numpy())
    safetensors.save_file({"rows": x[123:]}, "folder/b.safetensors")
    safetensors.save_file(
        {"rows": x.bfloat16(), "others": x[:, :3].contiguous(), "weights": random_weight(500)}, "c.safetensors"
    )
    np.save("weights.npy", random_weight(500).numpy())
    return x


MMR = ("folder", "--k", "3", "--method", "mmr", "--weights")


def picked(*arguments):
    assert main(["select", *arguments]) == 0
    return np.load("indices.npy").tolist()


def test_several_files_are_one_set_of_rows(x, capsys):
    assert picked("folder", "--k", "60") == tokenprune_kernels.divprune(x, 60).tolist()
    out = capsys.readouterr().out.splitlines()
    assert out[0].startswith("divprune kept 60 of 500 rows in ")
    assert out[1] == "wrote indices.npy"


@pytest.mark.parametrize("method", ["mmr", "idpruner"])
def test_weights_come_from_a_file(x, method):
    select = getattr(tokenprune_kernels, method)
    expected = select(x, random_weight(500), 40, lam=0.25).tolist()
    given = ("folder", "--k", "40", "--method", method, "--lam", "0.25")
    safetensors.save_file({"weights": random_weight(500).double()}, "double.safetensors")
    for weights in ("weights.npy", "c.safetensors", "double.safetensors"):
        assert picked(*given, "--weights", weights) == expected


def test_bfloat16_and_a_named_tensor(x):
    found = picked("c.safetensors", "--tensor", "rows", "--k", "30")
    assert found == tokenprune_kernels.divprune(x.bfloat16(), 30).tolist()


@pytest.mark.parametrize("done", [0, 1, 37, 60])
def test_it_goes_on_from_picks_to_the_same_result(x, done):
    expected = tokenprune_kernels.divprune(x, 60)
    np.save("begun.npy", expected[:done].numpy())
    assert picked("folder", "--k", "60", "--resume", "begun.npy") == expected.tolist()


def test_it_goes_on_behind_rows_that_are_not_finite(x):
    x[::50] = torch.nan
    np.save("x.npy", x.numpy())
    expected = tokenprune_kernels.divprune(x, 500)
    np.save("begun.npy", expected[:495].numpy())
    assert picked("x.npy", "--k", "500", "--resume", "begun.npy") == expected.tolist()


@pytest.mark.slow
def test_two_processes_of_torchrun_write_the_same(x):
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", "0"]
    command += ["--standalone", "-m", "tokenprune_kernels", "select", "folder", "--k", "60", "--out", "two.npy"]
    env = {**os.environ, "PYTHONPATH": str(Path(tokenprune_kernels.__file__).parent.parent)}
    done = subprocess.run(command, check=True, timeout=180, capture_output=True, text=True, env=env)
    assert re.search(r"^\d+ collectives brought [\d.]+ MB to each of 2 processes$", done.stdout, re.MULTILINE)
    assert np.load("two.npy").tolist() == tokenprune_kernels.divprune(x, 60).tolist()


def test_ctrl_c_leaves_the_picks_so_far_which_the_next_call_goes_on_from(x, monkeypatch, capsys):
    rounds = Progress.rounds

    def interrupted(self):
        """Ctrl-C in the middle of the second round."""
        found = rounds(self)
        yield next(found)
        raise KeyboardInterrupt

    with monkeypatch.context() as context:
        context.setattr(Progress, "rounds", interrupted)
        with pytest.raises(SystemExit) as raised:
            main(["select", "folder", "--k", "300"])
    assert raised.value.code == 130
    begun = np.load("indices.npy").tolist()
    expected = tokenprune_kernels.divprune(x, 300).tolist()
    assert 1 < len(begun) < 300
    assert begun == expected[: len(begun)]
    message = f"interrupted; indices.npy has {len(begun)} of 300 picks, --resume goes on from it"
    assert capsys.readouterr().err == f"python -m tokenprune_kernels: {message}\n"
    assert picked("folder", "--k", "300", "--resume", "indices.npy") == expected


def ends_with(error, after):
    """Rounds of a selection that ends with an error after so many of them."""
    rounds = Progress.rounds

    def found(self):
        yield from itertools.islice(rounds(self), after)
        raise error

    return found


def test_the_picks_are_left_where_another_process_ends(x, monkeypatch, capsys):
    monkeypatch.setattr(Progress, "rounds", ends_with(RuntimeError("Connection closed by peer"), 2))
    with pytest.raises(SystemExit):
        main(["select", "folder", "--k", "300"])
    begun = np.load("indices.npy").tolist()
    assert begun == tokenprune_kernels.divprune(x, 300)[: len(begun)].tolist()
    left = f"indices.npy has {len(begun)} of 300 picks, --resume goes on from it"
    assert capsys.readouterr().err.endswith(f": Connection closed by peer; {left}\n")


def test_without_a_pick_what_was_there_stays(x, monkeypatch, capsys):
    expected = picked("folder", "--k", "60")
    monkeypatch.setattr(Progress, "rounds", ends_with(KeyboardInterrupt(), 0))
    with pytest.raises(SystemExit):
        main(["select", "folder", "--k", "60"])
    assert capsys.readouterr().err == "python -m tokenprune_kernels: interrupted\n"
    assert np.load("indices.npy").tolist() == expected


@pytest.mark.parametrize(
    ("out", "message"),
    [
        ("none/indices.npy", "expected a file that can be written, got 'none/indices.npy': No such file or directory"),
        (250 * "a", "expected a file that can be written, got .*: File name too long"),
        ("folder", "expected a file, got 'folder', which is none"),
        ("", "expected a file, got '.', which is none"),
        ("one.npy", "expected another file than those of rows and weights, got 'one.npy'"),
        ("folder/a.npy", "expected another file than .* got 'folder/a.npy'"),
        ("folder/indices.npy", "expected another file than .* got 'folder/indices.npy'"),  # a row file of the next call
        ("link.npy", "expected another file than .* got 'link.npy'"),
        ("weights.npy", "expected another file than .* got 'weights.npy'"),
    ],
)
def test_what_cannot_be_written_or_is_an_input_is_refused_before_the_selection(x, out, message, monkeypatch, capsys):
    np.save("one.npy", x.numpy())
    Path("link.npy").symlink_to("one.npy")
    before = {path: path.read_bytes() for path in Path().rglob("*.npy")}
    monkeypatch.setattr(Progress, "rounds", None)
    given = ["folder", "one.npy", "--method", "mmr", "--weights", "weights.npy"]
    with pytest.raises(SystemExit) as raised:
        main(["select", *given, "--k", "3", "--out", out])
    assert raised.value.code == 2
    assert re.search(f": argument --out: {message}\n$", capsys.readouterr().err)
    assert {path: path.read_bytes() for path in Path().rglob("*.npy")} == before
    assert not list(Path().rglob("*.partial"))


def broken_npy(how):
    """A file that is no whole array of numbers."""
    whole = io.BytesIO()
    np.save(whole, np.ones((40, 3), dtype=np.float32))
    return {
        "empty": b"",
        "another": b"something else, which is long enough to be looked at",
        "cut in the header": whole.getvalue()[:50],
        "cut": whole.getvalue()[:-5],
        "several arrays": zipped(a=np.ones(3)),
        "objects": pickled(),
    }[how]


def zipped(**arrays):
    made = io.BytesIO()
    np.savez(made, **arrays)
    return made.getvalue()


def pickled():
    made = io.BytesIO()
    np.save(made, np.array([1, None]))
    return made.getvalue()


@pytest.mark.parametrize("how", ["empty", "another", "cut in the header", "cut", "several arrays", "objects"])
def test_no_array_is_one_line_whatever_it_is_for(x, how, capsys):
    Path("broken.npy").write_bytes(broken_npy(how))
    for given in (["broken.npy"], [*MMR, "broken.npy"], ["folder", "--resume", "broken.npy"]):
        with pytest.raises(SystemExit) as raised:
            main(["select", *given, "--k", "3"])
        assert raised.value.code == 2
        assert re.search(
            r": broken.npy: expected a whole .npy file .*, got another one \(.*\)\n$", capsys.readouterr().err
        )


ENTRY = {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ([], "expected a safetensors file, got another one"),
        ({"x": 7}, "expected a safetensors file, got another one"),
        ({"x": {"dtype": "F32"}}, "expected a safetensors file, got another one"),
        ({"x": {**ENTRY, "shape": 6}}, "expected a safetensors file, got another one"),
        ({"x": {**ENTRY, "data_offsets": [8, 32]}}, "expected 24 bytes of x, got 16"),  # cut off
        ({"x": {**ENTRY, "data_offsets": [0, 16]}}, "expected 24 bytes of x, got 16"),
        ({"x": {**ENTRY, "data_offsets": [-24, 0]}}, "expected 24 bytes of x, got 0"),
    ],
)
def test_safetensors_files_that_are_none(header, message):
    text = json.dumps(header).encode()
    Path("x.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + bytes(24))
    with pytest.raises(ValueError, match=f"^x.safetensors: {message}$"):
        open_rows(["x.safetensors"])


@pytest.mark.parametrize("content", [b"", b"\xff" * 99, (1 << 40).to_bytes(8, "little") + b"{", b"\x01"])
def test_safetensors_files_without_a_header(content):
    Path("x.safetensors").write_bytes(content)
    with pytest.raises(ValueError, match=r"^x.safetensors: expected a safetensors file, got another one$"):
        open_rows(["x.safetensors"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["none.npy", "--k", "3"], "none.npy: expected a file that can be read, got No such file or directory"),
        (["folder"], "the following arguments are required: --k"),
        (["folder", "--k", "501"], r"select: expected k to be in \[0, N\] with N = 500 rows of all ranks, got 501"),
        (["folder", "--k", "-1"], "argument --k: expected a whole number, got '-1'"),
        (["folder", "c.safetensors", "--k", "3"], r"c.safetensors: expected one matrix, got .*others"),
        (["folder", "--k", "3", "--method", "mmr"], "argument --weights: expected a file with relevance with mmr"),
        (["folder", "--k", "3", "--weights", "weights.npy"], "argument --weights: expected no file with divprune"),
        (["weights.npy", "--k", "3"], r"weights.npy: expected a matrix \[N, D\] with D >= 1, got shape \[500\]"),
        (["integers.npy", "--k", "3"], "integers.npy: expected float16 or float32, got int64"),
        (["empty", "--k", "3"], "empty: expected .npy, .safetensors, .* files in the folder, got none"),
        (
            ["folder", "wide.npy", "--k", "3"],
            "wide.npy: expected D = 24 and torch.float32, as in folder/a.npy, got D = 2",
        ),
        (
            ["folder", "--k", "3", "--resume", "four.npy"],
            "argument --resume: expected at most 3 row numbers, got 4",
        ),
        (
            ["folder", "--k", "3", "--resume", "twice.npy"],
            "initial to hold different rows, got 1 twice",
        ),
        (
            ["folder", "--k", "7", "--resume", "far.npy"],
            r"initial to hold rows in \[0, N\) with N = 500, got 500",
        ),
        (
            ["folder", "--k", "7", "--resume", "wide.npy"],
            r"wide.npy: expected .* int64 \[M\], got float32 of shape \[3, 2\]",
        ),
        (["folder", "--k", "7", "--resume", "floats.npy"], "floats.npy: expected row numbers, int64 .*, got float64"),
        (
            ["folder", "--k", "7", "--resume", "none.npy"],
            "none.npy: expected a file that can be read, got No such file",
        ),
        ([*MMR, "integers.npy"], "integers.npy: expected float16, float32 or float64, got int64"),
        ([*MMR, "wide.npy"], r"wide.npy: expected a number for each of 500 rows, got shape \[3, 2\]"),
        ([*MMR, "x.parquet"], "x.parquet: expected a file .npy, .safetensors, got another one"),
        ([*MMR, "weights.npy", "--lam", "half"], r"argument --lam: expected a share in \[0, 1\], got 'half'"),
        (["folder", "--k", "3", "--lam", "0.5"], "argument --lam: expected a method that has it, .*, got divprune"),
        (
            ["folder", "--k", "3", "--method", "dpp"],
            "argument --method: expected one of divprune, mmr, idpruner, got 'dpp'",
        ),
        (["x.txt", "--k", "3"], "x.txt: expected a file .npy, .*, got another one"),
        (["c.safetensors", "--tensor", "d", "--k", "3"], "c.safetensors: expected d, got .*others"),
        (["double.safetensors", "--k", "3"], "double.safetensors: expected x to be F16, BF16 or F32, got F64"),
    ],
)
def test_what_is_wrong_is_one_line(x, arguments, message, capsys):
    Path("empty").mkdir()
    np.save("integers.npy", np.zeros((3, 3), dtype=np.int64))
    np.save("wide.npy", np.zeros((3, 2), dtype=np.float32))
    np.save("four.npy", np.arange(4))
    np.save("twice.npy", np.array([1, 1]))
    np.save("far.npy", np.array([1, 500]))
    np.save("floats.npy", np.ones(2))
    safetensors.save_file({"x": x.double()}, "double.safetensors")
    with pytest.raises(SystemExit) as raised:
        main(["select", *arguments])
    assert raised.value.code == 2
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1
    assert re.search(message, captured.err)


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_processes_share_the_rows_without_gaps(x, size):
    parts = open_rows(["folder"])
    shared = [torch.cat(share(parts, rank, size)) for rank in range(size)]
    assert torch.equal(torch.cat(shared), x)
    assert max(map(len, shared)) - min(map(len, shared)) <= 1


def test_rows_are_mapped_not_read(x):
    for part in open_rows(["folder", "folder/a.npy"]):
        address = part.data_ptr()
        with Path("/proc/self/maps").open() as maps:
            lines = [line.split() for line in maps]
        spans = [(*(int(end, 16) for end in line[0].split("-")), line[-1]) for line in lines]
        assert any(begin <= address < end and "folder" in name for begin, end, name in spans)
