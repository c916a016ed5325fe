"""The picture of README."""

import pytest

pytest.importorskip("bench", reason="the benchmarks are only in the source tree")

from PIL import Image, ImageChops

from bench import files, picture


def test_the_committed_picture_is_what_the_command_draws(tmp_path, capsys):
    drawn = tmp_path / "card.png"
    assert picture.main(["--out", str(drawn)]) == 0
    assert capsys.readouterr().out == f"{drawn}\n"
    with Image.open(drawn) as mine, Image.open(files.RESULTS / "demo.png") as committed:
        assert mine.size == committed.size
        assert ImageChops.difference(mine.convert("RGBA"), committed.convert("RGBA")).getbbox() is None
