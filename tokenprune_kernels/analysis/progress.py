"""A progress bar on a terminal, and lines elsewhere, of what takes longer than two seconds."""

from __future__ import annotations

import sys
from time import perf_counter
from types import TracebackType
from typing import TextIO

_WIDTH = 30
_PATIENCE = 2.0  # seconds
_PAUSE = 10.0


class Progress:
    """Counts steps: ``with Progress(10) as progress: progress.step("what is done next")``.

    It is silent for two seconds. Then it draws a bar on a terminal; elsewhere it prints a line for a step, at most one
    in ten seconds. ``lines`` prints a line for each step.
    """

    def __init__(self, total: int, stream: TextIO | None = None, *, lines: bool = False) -> None:
        self._total = total
        self._done = 0
        self._stream = sys.stderr if stream is None else stream
        self._longest = 0
        self._lines = lines
        self._next = perf_counter() + _PATIENCE  # when something is shown

    def step(self, what: str) -> None:
        """Says what is done next, after as many steps as there were calls before."""
        self._draw(what, self._done + 1)
        self._done += 1

    def reach(self, done: int, what: str) -> None:
        """Says how much is done, and what is done next."""
        self._done = done
        self._draw(what, done)

    def _draw(self, what: str, number: int) -> None:
        terminal, now = self._stream.isatty(), perf_counter()
        if now < self._next and (terminal or not self._lines):
            return
        if not terminal:
            self._next = now + _PAUSE
            print(f"{number}/{self._total} {what}", file=self._stream, flush=True)
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
        if self._longest:
            self._stream.write(f"\r{' ' * self._longest}\r")
            self._stream.flush()
