"""The machine that a benchmark runs on, in words."""

from __future__ import annotations

import platform
from pathlib import Path


def processor() -> str:
    """The name of the processor."""
    try:
        description = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in description.splitlines() if line.startswith("model name")]
    return names[0] if names else platform.machine()
