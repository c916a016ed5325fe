"""A progress bar on a terminal."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import TextIO

_WIDTH = 30


class Progress:
    """Counts steps: ``with Progress(10) as progress: progress.step("what is done next")``.

    Where there is no terminal it is silent, or prints each step on a line of its own if ``lines`` is set.
    """

    def __init__(self, total: int, stream: TextIO | None = None, *, lines: bool = False) -> None:
        self._total = total
        self._done = 0
        self._stream = sys.stderr if stream is None else stream
        self._longest = 0
        self._lines = lines

    def step(self, what: str) -> None:
        """Says what is done next, after as many steps as there were calls before."""
        self._draw(what)
        self._done += 1

    def _draw(self, what: str) -> None:
        if not self._stream.isatty():
            if self._lines:
                print(f"{self._done + 1}/{self._total} {what}", file=self._stream, flush=True)
            return
        filled = _WIDTH * self._done // max(1, self._total)
        line = f"[{'#' * filled}{'.' * (_WIDTH - filled)}] {self._done}/{self._total} {what}"
        self._longest = max(self._longest, len(line))
        self._stream.write(f"\r{line.ljust(self._longest)}")
        self._stream.flush()

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._stream.isatty():
            self._stream.write(f"\r{' ' * self._longest}\r")
            self._stream.flush()
