from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import tokenprune_kernels
from tokenprune_kernels import analysis, importance
from tokenprune_kernels.__main__ import main
from tokenprune_kernels.analysis import pictures, report

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
        (["--method", "dpp"], lambda x: tokenprune_kernels.dpp(x, importance.norm(x) / importance.norm(x).max(), 4)),
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


def test_analyse_leaves_a_report(picture, tmp_path, capsys):
    pytest.importorskip("matplotlib")
    pytest.importorskip("safetensors.torch").save_file(
        {"features": torch.randn(2, 36, 8, generator=torch.Generator().manual_seed(0))}, tmp_path / "saved.safetensors"
    )
    for given, titles in (
        (["picture.png"], ["picture: 10 of 40 tokens, importance is norm"]),
        (["--features", "saved.safetensors"], ["saved 0: 9 of 36", "saved 1: 9 of 36"]),
    ):
        assert main(["analyse", *given, "--keep", "0.25", "--out", "new"]) == 0
        captured = capsys.readouterr()
        for title in titles:
            assert title in captured.out
        written = [
            f"wrote {Path('new') / name}" for name in ("measurements.csv", "pareto.png", "kept.png", "angles.png")
        ]
        assert captured.out.splitlines()[-4:] == written
        # On a slow machine.
        assert all(re.fullmatch(r"\d+/\d+ .+: .+", line) for line in captured.err.splitlines())
        assert sorted(path.name for path in (tmp_path / "new").iterdir()) == sorted(Path(each).name for each in written)


def test_analyse_takes_features_from_a_vision_tower(picture, tmp_path, capsys):
    pytest.importorskip("matplotlib")
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 70, "patch_size": 14}
    transformers.CLIPVisionModel(transformers.CLIPVisionConfig(**sizes)).save_pretrained(tmp_path / "tower")
    capsys.readouterr()
    assert main(["analyse", "picture.png", "--vision-tower", "tower", "--keep", "0.2"]) == 0
    assert "picture: 5 of 25 tokens, importance is class attention" in capsys.readouterr().out
    assert (tmp_path / "report" / "kept.png").exists()


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
        (
            ["prune", "picture.png", "--method", "fps"],
            "--method: expected one of divprune, mmr, idpruner, dpp, got 'fps'",
        ),
        (["prune", "picture.png", "--method", "mmr", "--lam", "2"], "--lam: expected a share in [0, 1], got '2'"),
        (
            ["prune", "picture.png", "--lam", "0.5"],
            "--lam: expected a method that has it, mmr or idpruner, got divprune",
        ),
        (["prune", "picture.png", "--method", "dpp", "--lam", "0.5"], "a method that has it, mmr or idpruner, got dpp"),
        (["prune", "picture.png", "--out", "missing/kept.png"], "expected a path that can be written"),
        (["prune", "picture.png", "--out", "kept.unknown"], "expected a path that ends like a picture file"),
        (["prune", "picture.png", "more.png"], "expected no further arguments, got more.png"),
        (["prune", "picture.png", "--colour"], "expected no further arguments, got --colour"),
        (["prune"], "IMAGE"),
        (["analyse"], "analyse: expected an IMAGE or --features, got neither"),
        (["analyse", "--vision-tower", "tower"], "analyse: expected an IMAGE or --features, got neither"),
        (
            ["analyse", "picture.png", "--features", "a", "--vision-tower", "b"],
            "--features or --vision-tower, got both",
        ),
        (["analyse", "picture.png", "picture.png"], "expected pictures of different names, got picture, picture"),
        (["analyse", "picture.png", "--keep", "0.02"], "--keep to keep at least 2 tokens, got 1 of picture"),
        (["analyse", "picture.png", "--keep", "2"], "--keep: expected a ratio in (0, 1], got '2'"),
        (["analyse", "text.png"], "expected a readable picture file, got 'text.png'"),
        (["analyse", "--features", "text.png"], "features: expected a readable safetensors file, got 'text.png'"),
        (["analyse", "picture.png", "--vision-tower", "."], "expected a directory with config.json, got '.'"),
        (["analyse", "picture.png", "--keep", "0.1", "--out", "text.png"], "expected a directory that can be written"),
        (["info", "more"], "expected no further arguments, got more"),
        (["draw"], "(choose from "),
        ([], "expected a command, one of prune, analyse, select, info"),
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
    with tokenprune_kernels.use_backend("triton"), pytest.raises(SystemExit) as exit_:
        main(["prune", str(picture)])
    assert exit_.value.code == 2
    assert "backend 'triton' cannot run on cpu tensors" in one_error_line(capsys.readouterr())


@pytest.mark.parametrize(
    ("command", "place"),
    [("prune", "tokenprune_kernels.__main__.prune"), ("analyse", "tokenprune_kernels.analysis.measure")],
)
@pytest.mark.parametrize(("reason", "expected"), [("", "too little"), ("2 TiB\nfor x", "2 TiB for x")])
def test_too_little_memory_is_one_line(picture, capsys, monkeypatch, command, place, reason, expected):
    pytest.importorskip("matplotlib")

    def fail(*_, **__):
        raise MemoryError(*([reason] if reason else []))

    monkeypatch.setattr(place, fail)
    with pytest.raises(SystemExit) as exit_:
        main([command, str(picture)])
    assert exit_.value.code == 2
    assert one_error_line(capsys.readouterr()).endswith(f"expected enough memory, got {expected}\n")


@pytest.mark.parametrize(
    ("tensors", "expected"),
    [
        ({"features": torch.ones(1, 4), "importance": torch.tensor(1.0)}, "expected importance to be floating, [1, 1]"),
        ({"features": torch.ones(12, 4), "grid": torch.tensor([-3, -4])}, "expected grid to hold the rows and columns"),
    ],
)
def test_saved_features_that_do_not_fit_are_one_line(tmp_path, capsys, tensors, expected):
    pytest.importorskip("matplotlib")
    pytest.importorskip("safetensors.torch").save_file(tensors, tmp_path / "saved.safetensors")
    with pytest.raises(SystemExit) as exit_:
        main(["analyse", "--features", "saved.safetensors"])
    assert exit_.value.code == 2
    assert expected in one_error_line(capsys.readouterr())


@pytest.mark.parametrize(
    ("module", "command", "expected"),
    [
        ("PIL.Image", ["prune"], "expected numpy and Pillow"),
        (
            "matplotlib.figure",
            ["analyse"],
            "expected matplotlib to be installed (pip install 'tokenprune_kernels[analyse]')",
        ),
        ("safetensors.torch", ["analyse", "--features", "a"], "expected safetensors to be installed (pip install"),
    ],
)
def test_missing_package_is_one_line(picture, capsys, monkeypatch, module, command, expected):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(SystemExit) as exit_:
        main([*command, str(picture)])
    assert exit_.value.code == 2
    assert expected in one_error_line(capsys.readouterr())


def test_info_says_what_is_installed_and_what_runs(capsys):
    assert main(["info"]) == 0
    captured = capsys.readouterr()
    lines = captured.out.splitlines()
    assert f"tokenprune_kernels {tokenprune_kernels.__version__}" in lines
    assert f"torch {torch.__version__}" in lines
    for backend in ("native", "triton"):
        assert f"{backend}:" in lines
    starts = [line.partition(":")[0].strip() for line in lines]
    for key in ("platform", "location", "torch build", "threads", "file", "compiler", "isa", "isa by dtype"):
        assert starts.count(key) == 1
    for name in ("python", "triton", "transformers"):
        assert sum(line.startswith(f"{name} ") for line in lines) == 1
    assert "{" not in captured.out
    assert captured.err == ""


def test_help_names_the_commands(capsys):
    with pytest.raises(SystemExit) as exit_:
        main(["--help"])
    assert exit_.value.code == 0
    out = capsys.readouterr().out
    assert "prune" in out
    assert "info" in out


@pytest.mark.slow
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


def run(*arguments, **options):
    command = [sys.executable, "-m", "tokenprune_kernels", *map(str, arguments)]
    root = Path(tokenprune_kernels.__file__).parent.parent
    environment = {**os.environ, "PYTHONPATH": str(root), **options.pop("env", {})}
    return subprocess.run(command, text=True, stderr=subprocess.PIPE, timeout=100, env=environment, **options)


@pytest.mark.slow
def test_a_name_that_the_terminal_cannot_show(picture, tmp_path):
    out = tmp_path / "k\xe4pt.png"
    result = run("prune", picture, "--out", out, stdout=subprocess.PIPE, env={"PYTHONIOENCODING": "ascii"})
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.endswith("k\\xe4pt.png\n")
    assert out.exists()


@pytest.mark.slow
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_output_that_cannot_be_written_is_one_line():
    with open("/dev/full", "w") as full:  # noqa: PTH123 - a device
        result = run("info", stdout=full)
    assert result.returncode == 2
    assert result.stderr.splitlines() == [
        "python -m tokenprune_kernels: expected output that can be written, got No space left on device"
    ]


@pytest.mark.slow
def test_a_reader_that_has_read_enough():
    reading, writing = os.pipe()
    os.close(reading)
    result = run("info", stdout=writing)
    os.close(writing)
    assert (result.returncode, result.stderr) == (1, "")


def test_an_interrupt_is_one_line(picture, monkeypatch, capsys):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(pictures, "patch_tokens", interrupted)
    with pytest.raises(SystemExit) as stopped:
        main(["prune", str(picture)])
    assert stopped.value.code == 130
    assert one_error_line(capsys.readouterr()) == "python -m tokenprune_kernels: interrupted\n"


def test_the_picture_itself_is_not_overwritten(picture, tmp_path, capsys):
    before = picture.read_bytes()
    (tmp_path / "link.png").symlink_to(picture)
    for out in (picture, tmp_path / "link.png"):
        with pytest.raises(SystemExit):
            main(["prune", str(picture), "--out", str(out)])
        assert "argument --out: expected another file than the picture" in one_error_line(capsys.readouterr())
    assert picture.read_bytes() == before


def test_a_picture_is_scaled_down(picture, tmp_path, capsys):
    assert main(["prune", str(picture), "--longest-side", "60", "--out", str(tmp_path / "out.png")]) == 0
    assert "of 8 patches" in capsys.readouterr().out  # 60 x 37 pixels
    with pytest.raises(SystemExit):
        main(["prune", str(picture), "--longest-side", "13"])
    assert "expected a whole number of at least 14 pixels, got '13'" in one_error_line(capsys.readouterr())


def test_an_analysis_that_is_stopped_leaves_what_it_has_measured(picture, tmp_path, monkeypatch, capsys):
    pytest.importorskip("matplotlib")
    measure, done = analysis.measure, []

    def measured(*arguments):
        if len(done) == 3:
            raise KeyboardInterrupt
        done.append(measure(*arguments))
        return done[-1]

    monkeypatch.setattr(analysis, "measure", measured)
    with pytest.raises(SystemExit):
        main(["analyse", str(picture), "--out", str(tmp_path / "report")])
    lines = (tmp_path / "report" / "measurements.csv").read_text().splitlines()
    assert len(lines) == 4
    assert [line.split(",")[1] for line in lines[1:]] == [each.selector for each in done]


def test_each_measurement_is_written_once(picture, tmp_path, monkeypatch):
    """Also where the figures fail at the end, the file stays."""
    pytest.importorskip("matplotlib")
    written, write = [], report._write

    def counted(out, mode, lines):
        written.append((mode, len(lines)))
        write(out, mode, lines)

    def failing(*_):
        raise MemoryError

    monkeypatch.setattr(report, "_write", counted)
    monkeypatch.setattr(analysis, "write_figures", failing)
    with pytest.raises(SystemExit):
        main(["analyse", str(picture), "--out", str(tmp_path / "report")])
    lines = (tmp_path / "report" / "measurements.csv").read_text().splitlines()
    assert written == [("w", 1), *[("a", 1)] * (len(lines) - 1)]
    assert len(lines) > 100
