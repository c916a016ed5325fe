"""The progress bar."""

import io

import pytest

from tokenprune_kernels.analysis import progress as progress_module
from tokenprune_kernels.analysis.progress import Progress


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def clock(monkeypatch):
    """The time, in seconds, which stands still."""
    time = [100.0]
    monkeypatch.setattr(progress_module, "perf_counter", lambda: time[0])
    return time


def test_progress_is_drawn_on_a_terminal_and_wiped(clock):
    terminal = Terminal()
    with Progress(2, terminal) as progress:
        clock[0] += 2
        progress.step("a long name")
        progress.step("short")
    frames = terminal.getvalue().split("\r")
    assert frames[1] == f"[{'.' * 30}] 0/2 a long name"
    assert frames[2] == f"[{'#' * 15}{'.' * 15}] 1/2 short      "
    assert frames[3].strip() == ""
    assert frames[4] == ""


@pytest.mark.parametrize("stream", [Terminal, io.StringIO])
def test_progress_is_silent_for_two_seconds(clock, stream):
    output = stream()
    with Progress(2, output) as progress:
        progress.step("anything")
        clock[0] += 1.9
        progress.step("anything else")
    assert output.getvalue() == ""


def test_progress_is_lines_elsewhere_one_in_ten_seconds(clock):
    stream = io.StringIO()
    with Progress(9, stream) as progress:
        for seconds in (0, 3, 9, 1, 9):
            clock[0] += seconds
            progress.step(f"step at {clock[0]:.0f}")
    assert stream.getvalue() == "2/9 step at 103\n4/9 step at 113\n"


def test_a_line_for_each_step(clock):
    stream = io.StringIO()
    with Progress(2, stream, lines=True) as progress:
        progress.step("one")
        progress.step("two")
    assert stream.getvalue() == "1/2 one\n2/2 two\n"
