"""The progress bar."""

import io

from tokenprune_kernels.analysis.progress import Progress


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_progress_is_drawn_on_a_terminal_and_wiped():
    terminal = Terminal()
    with Progress(2, terminal) as progress:
        progress.step("a long name")
        progress.step("short")
    frames = terminal.getvalue().split("\r")
    assert frames[1] == f"[{'.' * 30}] 0/2 a long name"
    assert frames[2] == f"[{'#' * 15}{'.' * 15}] 1/2 short      "
    assert frames[3].strip() == ""
    assert frames[4] == ""


def test_progress_is_silent_elsewhere():
    stream = io.StringIO()
    with Progress(1, stream) as progress:
        progress.step("anything")
    assert stream.getvalue() == ""
