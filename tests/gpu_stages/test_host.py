"""What a call costs in Python is counted without a device."""

import json

import pytest

pytest.importorskip("bench", reason="the benchmarks are only in the source tree")
triton = pytest.importorskip("triton")
if triton.knobs.runtime.interpret:
    pytest.skip("interpreted kernels have no handles", allow_module_level=True)

from bench import host  # noqa: E402


def test_launches_and_microseconds_of_a_call(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(host, "CALLS", 3)
    monkeypatch.setattr(host, "COUNT", 32)
    monkeypatch.setattr(host, "DEPTH", 64)
    monkeypatch.setattr(host, "K", 4)
    assert host.main(["--only", "dpp", "--out", str(tmp_path / "rows")]) == 0
    (row,) = json.loads((tmp_path / "rows").read_text())
    assert row["launches"] == ["row_norm_kernel", "dpp_kernel"]
    assert 0 < row["tenth"] <= row["median"]
    assert "| dpp | 2 |" in capsys.readouterr().out
