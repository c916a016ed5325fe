"""A progress bar on stderr."""

from __future__ import annotations

import sys

WIDTH = 24


class Progress:
    """Shows which step of how many runs now: in place on a terminal, one line each elsewhere."""

    def __init__(self, steps: int) -> None:
        self._steps = steps
        self._begun = 0

    def step(self, name: str) -> None:
        """The step that begins."""
        done = WIDTH * self._begun // self._steps
        self._begun += 1
        bar = f"[{'#' * done}{' ' * (WIDTH - done)}] {self._begun}/{self._steps} {name}"
        if sys.stderr.isatty():
            print(f"\r\x1b[K{bar}", end="", file=sys.stderr, flush=True)
        else:
            print(bar, file=sys.stderr, flush=True)

    def clear(self) -> None:
        """Leaves nothing of the bar on a terminal."""
        if sys.stderr.isatty():
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)
