from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

import tokenprune_kernels
from tokenprune_kernels import importance, pictures
from tokenprune_kernels.__main__ import main

np = pytest.importorskip("numpy")
Image = pytest.importorskip("PIL.Image")

ROWS, COLUMNS = 5, 8


@pytest.fixture
def picture(tmp_path):
    """The path of a picture of 40 patches, in the directory that the commands write to."""
    path = tmp_path / "picture.png"
    pixels = np.random.default_rng(0).integers(0, 256, (ROWS * 14 + 3, COLUMNS * 14 + 5, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def one_error_line(captured) -> str:
    """The error line, which is the only output."""
    assert captured.out == ""
    assert captured.err.endswith("\n")
    assert captured.err.count("\n") == 1
    return captured.err


@pytest.mark.parametrize(
    ("options", "select"),
    [
        ([], lambda x: tokenprune_kernels.divprune(x, 4)),
        (["--method", "divprune", "--keep", "0.25"], lambda x: tokenprune_kernels.divprune(x, 10)),
        (["--method", "idpruner"], lambda x: tokenprune_kernels.idpruner(x, importance.norm(x), 4)),
        (
            ["--method", "idpruner", "--lam", "0.9", "--keep", "0.5"],
            lambda x: tokenprune_kernels.idpruner(x, importance.norm(x), 20, lam=0.9),
        ),
        (
            ["--method", "mmr", "--lam", "0"],
            lambda x: tokenprune_kernels.mmr(x, importance.norm(x) / importance.norm(x).max(), 4, lam=0.0),
        ),
        (["--keep", "1"], lambda x: torch.arange(40)),
        (["--keep", "1e-9"], lambda x: tokenprune_kernels.divprune(x, 1)),
    ],
)
def test_prune_draws_the_selection(picture, tmp_path, capsys, options, select):
    out = tmp_path / "drawn.png"
    assert main(["prune", str(picture), "--out", str(out), *options]) == 0
    opened = pictures.open_picture(picture)
    kept = select(pictures.patch_tokens(opened))
    assert (np.asarray(Image.open(out)) == np.asarray(pictures.draw_kept(opened, kept))).all()
    method = options[1] if "--method" in options else "divprune"
    captured = capsys.readouterr()
    first, second = captured.out.splitlines()
    assert first.startswith(f"{method} kept {len(kept)} of 40 patches in ")
    assert first.endswith(" ms")
    assert second == f"wrote {out}"
    assert captured.err == ""


def test_prune_writes_kept_png_by_default(picture, tmp_path):
    main(["prune", str(picture)])
    assert Image.open(tmp_path / "kept.png").size == (COLUMNS * 14, ROWS * 14)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["prune", "missing.png"], "expected a readable picture file, got 'missing.png'"),
        (["prune", "two\nlines.png"], "expected a readable picture file"),
        (["prune", "."], "expected a readable picture file, got '.'"),
        (["prune", "text.png"], "expected a readable picture file, got 'text.png'"),
        (["prune", "small.png"], "expected at least 14 x 14 pixels, got 13 x 40"),
        (["prune", "picture.png", "--keep", "0"], "--keep: expected a ratio in (0, 1], got '0'"),
        (["prune", "picture.png", "--keep", "1.5"], "--keep: expected a ratio in (0, 1], got '1.5'"),
        (["prune", "picture.png", "--keep", "-0.1"], "--keep: expected a ratio in (0, 1], got '-0.1'"),
        (["prune", "picture.png", "--keep", "nan"], "--keep: expected a ratio in (0, 1], got 'nan'"),
        (["prune", "picture.png", "--keep", "half"], "--keep: expected a ratio in (0, 1], got 'half'"),
        (["prune", "picture.png", "--keep"], "--keep: expected one argument"),
        (["prune", "picture.png", "--method", "dpp"], "--method: expected one of divprune, idpruner, mmr, got 'dpp'"),
        (["prune", "picture.png", "--method", "mmr", "--lam", "2"], "--lam: expected a share in [0, 1], got '2'"),
        (["prune", "picture.png", "--lam", "0.5"], "--lam: expected a method with importance"),
        (["prune", "picture.png", "--out", "missing/kept.png"], "expected a path that can be written"),
        (["prune", "picture.png", "--out", "kept.unknown"], "expected a path that ends like a picture file"),
        (["prune", "picture.png", "more.png"], "expected no further arguments, got more.png"),
        (["prune", "picture.png", "--colour"], "expected no further arguments, got --colour"),
        (["prune"], "IMAGE"),
        (["info", "more"], "expected no further arguments, got more"),
        (["draw"], "(choose from "),
        ([], "expected a command, one of prune, info"),
    ],
)
def test_bad_input_is_one_line(picture, tmp_path, capsys, arguments, expected):
    (tmp_path / "text.png").write_text("not a picture\n")
    Image.new("RGB", (13, 40)).save(tmp_path / "small.png")
    files = sorted(tmp_path.iterdir())
    with pytest.raises(SystemExit) as exit_:
        main(arguments)
    assert exit_.value.code == 2
    assert expected in one_error_line(capsys.readouterr())
    assert sorted(tmp_path.iterdir()) == files


def test_backend_that_cannot_run_is_one_line(picture, capsys):
    with tokenprune_kernels.use_backend("cuda"), pytest.raises(SystemExit) as exit_:
        main(["prune", str(picture)])
    assert exit_.value.code == 2
    assert "backend 'cuda' cannot run on cpu tensors" in one_error_line(capsys.readouterr())


def test_missing_package_is_one_line(picture, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "PIL.Image", None)
    with pytest.raises(SystemExit) as exit_:
        main(["prune", str(picture)])
    assert exit_.value.code == 2
    assert "expected numpy and Pillow" in one_error_line(capsys.readouterr())


def test_info_says_what_is_installed_and_what_runs(capsys):
    assert main(["info"]) == 0
    captured = capsys.readouterr()
    lines = captured.out.splitlines()
    assert f"tokenprune_kernels {tokenprune_kernels.__version__}" in lines
    assert f"torch {torch.__version__}" in lines
    for backend in ("native", "triton", "cuda"):
        assert f"{backend}:" in lines
    assert captured.err == ""


def test_help_names_the_commands(capsys):
    with pytest.raises(SystemExit) as exit_:
        main(["--help"])
    assert exit_.value.code == 0
    out = capsys.readouterr().out
    assert "prune" in out
    assert "info" in out


def test_as_a_process(picture):
    def run(*arguments):
        command = [sys.executable, "-m", "tokenprune_kernels", *arguments]
        root = Path(tokenprune_kernels.__file__).parent.parent
        return subprocess.run(command, capture_output=True, text=True, check=False, cwd=root)

    good = run("prune", str(picture), "--out", str(picture.with_name("drawn.png")))
    assert (good.returncode, good.stderr) == (0, "")
    assert good.stdout.startswith("divprune kept 4 of 40 patches")
    bad = run("prune", "missing.png")
    assert (bad.returncode, bad.stdout) == (2, "")
    assert "expected a readable picture file" in bad.stderr
    assert bad.stderr.count("\n") == 1
