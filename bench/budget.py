"""How long a benchmark may go on."""

from __future__ import annotations

import time
from collections.abc import Callable


class Budget:
    """A number of seconds from now on."""

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._end = clock() + seconds

    def left(self) -> float:
        return max(0.0, self._end - self._clock())
