"""Where results are, and what they say of the machine and of errors: names, no paths."""

from __future__ import annotations

import json
import platform
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "bench" / "results"


def write(name: str, result: dict[str, Any], folder: Path | None = None) -> Path:
    """Writes a result beside the others, or to another folder. A reader never finds half of it."""
    path = (folder or RESULTS) / name
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(result, indent=1) + "\n")
    partial.replace(path)
    return path


def read(pattern: str) -> list[dict[str, Any]]:
    """The results whose file names match, in the order of these."""
    return [json.loads(path.read_text()) for path in sorted(RESULTS.glob(pattern))]


def processor() -> str:
    """The name of the processor, with its family and model where there are such."""
    try:
        description = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.processor() or platform.machine()
    return processor_of(description) or platform.machine()


def processor_of(description: str) -> str:
    """That of a text like /proc/cpuinfo; "" without a name. Virtual machines give several processors one name."""
    fields = [line.partition(":") for line in description.splitlines()]
    first = {name.strip(): value.strip() for name, _, value in reversed(fields)}
    name, family, model = (first.get(each, "") for each in ("model name", "cpu family", "model"))
    return f"{name}, family {family} model {model}" if name and family and model else name


def file_name(benchmark: str, machine: str) -> str:
    """The name of a machine's result: lower case, with dashes."""
    return f"{benchmark}-{re.sub(r'[^a-z0-9]+', '-', machine.lower()).strip('-')}.json"


def described(error: BaseException) -> str:
    """The first line of an error's message, without paths."""
    first = next(iter(str(error).strip().splitlines()), "")
    return f"{type(error).__name__}: {re.sub(r'(?:/[^/ :,;]+){2,}/?', 'PATH', first)}"[:200]
