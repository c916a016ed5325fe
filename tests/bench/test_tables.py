"""Results as Markdown, and the documents that hold them."""

import dataclasses
import json

import pytest
import torch

pytest.importorskip("bench", reason="the benchmarks are only in the source tree")

from bench import files, inputs, markdown, render, tables
from bench.devices import cpu
from bench.row import Row, compare
from tests.bench.common import SMALL, cpu_result, row


def test_the_documents_say_what_the_results_say():
    for (name, document), table in render.rendered().items():
        assert markdown.between(name, document) == table, f"{name}: python -m bench render"


def test_rendering_changes_no_more_than_the_tables(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "RESULTS", tmp_path)
    monkeypatch.setattr(render, "BENCHMARKS", tmp_path / "benchmarks.md")
    monkeypatch.setattr(render, "README", tmp_path / "README.md")
    monkeypatch.setattr(render, "VLLM", tmp_path / "vllm.md")
    monkeypatch.setattr(render, "ACCURACY", tmp_path / "accuracy.md")
    monkeypatch.setattr(render, "DISTRIBUTED", tmp_path / "distributed.md")
    for name, document in render.rendered():
        assert document.parent == tmp_path
        text = document.read_text() if document.exists() else ""
        document.write_text(f"{text}before {name}\n<!-- {name} begin -->\nold\n<!-- {name} end -->\nafter\n")
    result = cpu_result(row(median=12.5, correct=True))
    files.write("cpu-some-cpu.json", result)
    assert render.main([]) == 0
    written = (tmp_path / "benchmarks.md").read_text()
    shown = f"<!-- cpu table begin -->\n**Some CPU**\n\n{cpu.table(result)}\n<!-- cpu table end -->\nafter\n"
    assert shown in written
    assert "Not measured yet: there is no result of `make gpu`." in written
    assert "old" not in written
    (tmp_path / "README.md").write_text("")
    with pytest.raises(ValueError, match=r"README\.md: expected the markers <!-- speed table begin -->"):
        render.write()


def test_a_row_is_read_as_it_was_written():
    made = row(median=12.5, correct=True, how="eager", details={"stages": {"first": 1.0}})
    assert Row.read(json.loads(json.dumps(dataclasses.asdict(made)))) == made
    older = dataclasses.asdict(row("left out", note="is not installed"))
    del older["how"], older["details"]
    assert Row.read(older) == row("left out", note="is not installed")


def test_the_table_shows_the_photograph_that_gains_least():
    first, second = (dataclasses.replace(SMALL, kind="photograph", name=name) for name in ("one", "two"))
    rows = [
        row(median=10.0, tokens=first, correct=True, bound=2.5),
        row("loop", 30.0, tokens=first, correct=True),
        row("wrong loop", 20.0, tokens=first, correct=False, note="pick 3: row 5 | row 9"),
        row(median=10.0, tokens=second, correct=True, bound=2.0),
        row("loop", 50.0, tokens=second, correct=True),
        row(tokens=inputs.noise(40), correct=False, note="pick 1: wrong"),
        row("package", tokens=first, note="is not installed"),
        row(median=10.0, tokens=first, method="mmr", correct=True),
    ]
    compare(rows)
    extra = [{"method": "divprune", "dtype": "float32", "megabytes": 12.34, "note": ""}]
    result = json.loads(json.dumps(cpu_result(*rows, extra_memory=extra, not_started=["loop on tokens", "another"])))
    lines = cpu.table(result).splitlines()
    assert lines[2] == (
        "| `divprune` | photograph, worst of 2 | 40, k = 4 | float32 | 10.0 (5.00 to 20.0) | 25 % "
        "| 30.0 (loop) | 3.00 | 20.0 (wrong loop) | 2.00 |"
    )
    assert lines[3].startswith("| `divprune` | Gaussian noise | 40, k = 4 | float32 | none: pick 1: wrong | - |")
    assert lines[4] == "| `mmr` | photograph | 40, k = 4 | float32 | 10.0 (5.00 to 20.0) | - | - | - | - | - |"
    assert {line.count("|") for line in lines[:5]} == {11}
    assert "`divprune` float32 12.3 MB; a float32 similarity matrix takes 1,074 MB" in lines[6]
    assert "Some CPU, 2 threads, `avx2`" in lines[8]
    assert lines[9] == "Left out: package (is not installed)."
    assert lines[10] == "Not started, for want of time: loop on tokens, and 1 more."
    every = tables.details(rows).splitlines()
    assert len(every) == 2 + len(rows)
    assert {line.count("|") for line in every} == {12}


@pytest.mark.parametrize(
    ("not_started", "expected"),
    [
        ((), []),
        (("a",), ["Not started, for want of time: a."]),
        ("abc", ["Not started, for want of time: a, and 2 more."]),
    ],
)
def test_what_was_not_started_is_counted(not_started, expected):
    assert tables.left_out([], not_started) == expected


def test_the_readme_has_five_lines_of_photographs():
    (result,) = files.read(render.SPEED_RESULT)
    lines = tables.speed(result).splitlines()
    assert len(lines) == 2 + len(tables.SPEED) + 2
    small, other = (
        dataclasses.replace(SMALL, kind=kind, counts=(576,), ks=(58,)) for kind in ("photograph", "Gaussian noise")
    )
    rows = [
        row(median=2.0, tokens=other, correct=True),
        row(median=3.0, tokens=small, correct=True, dtype=torch.bfloat16),
        row("loop", 12.0, tokens=small, correct=True, dtype=torch.bfloat16),
    ]
    compare(rows)
    shown = tables.speed(cpu_result(*rows)).splitlines()
    assert shown[2:4] == ["| `divprune` bfloat16 | 576 -> 58 | 3.00 | 12.0 (loop) | 4.00 |", ""]


def test_markers_must_be_there_and_in_order(tmp_path):
    document = tmp_path / "benchmarks.md"
    begin, end = "<!-- some table begin -->", "<!-- some table end -->"
    document.write_text(f"before\n{begin}\nold\n{end}\nafter\n")
    for table in ("| first |", "| second |"):
        markdown.put_between("some table", table, document)
        assert document.read_text() == f"before\n{begin}\n{table}\n{end}\nafter\n"
        assert markdown.between("some table", document) == table
    for text in ("", f"{begin}\n", f"{end}\n{begin}\n"):
        document.write_text(text)
        with pytest.raises(ValueError, match="expected the markers"):
            markdown.put_between("some table", "| table |", document)
        assert document.read_text() == text


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, "-"),
        (0.0, "0"),
        (1_234.5, "1,234"),
        (123.4, "123"),
        (12.34, "12.3"),
        (1.234, "1.23"),
        (-0.0123, "-0.0123"),
    ],
)
def test_numbers_have_three_digits(value, expected):
    assert markdown.number(value) == expected


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("", "ValueError: "),
        ("no such file: /home/someone/x.py, line 3", "ValueError: no such file: PATH, line 3"),
        ("first\nsecond", "ValueError: first"),
        ("x" * 300, "ValueError: " + "x" * 188),
        ("a / b", "ValueError: a / b"),
    ],
)
def test_errors_are_noted_without_paths(message, expected):
    assert files.described(ValueError(message)) == expected


def test_the_result_is_named_after_the_machine():
    assert files.file_name("cuda", "NVIDIA H200") == "cuda-nvidia-h200.json"
    assert files.file_name("cpu", "Some CPU @ 2 GHz (x2)") == "cpu-some-cpu-2-ghz-x2.json"


@pytest.mark.parametrize(
    ("description", "name"),
    [
        ("cpu family\t: 25\nmodel\t\t: 17\nmodel name\t: Some CPU\n", "Some CPU, family 25 model 17"),
        ("model\t\t: 1\nmodel name\t: A\ncpu family\t: 2\n\nmodel\t\t: 3\nmodel name\t: B\n", "A, family 2 model 1"),
        ("model name\t: Some CPU\n", "Some CPU"),
        ("CPU implementer\t: 0x41\n", ""),
    ],
)
def test_a_processor_is_told_from_others_of_its_name(description, name):
    assert files.processor_of(description) == name
