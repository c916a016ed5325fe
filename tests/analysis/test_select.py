"""The command `select`: rows of files, without reading more of them than it must."""

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
    for weights in ("weights.npy", "c.safetensors"):
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
            "argument --resume: expected at most 3 row numbers",
        ),
        (
            ["folder", "--k", "3", "--resume", "twice.npy"],
            "initial to hold different rows, got 1 twice",
        ),
        (
            ["folder", "--k", "7", "--resume", "far.npy"],
            r"initial to hold rows in \[0, N\) with N = 500, got 500",
        ),
        (["folder", "--k", "7", "--resume", "wide.npy"], r"argument --resume: expected .* got shape \[3, 2\]"),
        (["folder", "--k", "7", "--resume", "floats.npy"], "select: expected initial to be int64 .* got torch.float64"),
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
