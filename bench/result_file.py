"""What a committed result says of the machine and of errors: names, no paths."""

from __future__ import annotations

import platform
import re
from pathlib import Path


def processor() -> str:
    """The name of the processor."""
    try:
        description = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in description.splitlines() if line.startswith("model name")]
    return names[0] if names else platform.machine()


def file_name(device: str) -> str:
    """The name of a device's result: lower case, with dashes."""
    return re.sub(r"[^a-z0-9]+", "-", device.lower()).strip("-") + ".json"


def described(error: BaseException) -> str:
    """The first line of an error's message, without paths."""
    first = next(iter(str(error).strip().splitlines()), "")
    return f"{type(error).__name__}: {re.sub(r'(?:/[^/ :,;]+){2,}/?', 'PATH', first)}"[:200]
