"""Tables of results, and their place in README.md."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable
from pathlib import Path


def number(value: float | None) -> str:
    """Three significant digits, thousands separated."""
    if value is None:
        return "-"
    if value == 0:
        return "0"
    digits = max(0, 2 - math.floor(math.log10(abs(value))))
    return f"{value:,.{digits}f}"


def line(cells: Iterable[str]) -> str:
    """A line of a table."""
    return "| " + " | ".join(cells) + " |"


def put_into_readme(begin: str, end: str, table: str, readme: Path) -> bool:
    """Replaces what stands between the two markers; says so and changes nothing where they are missing."""
    text = readme.read_text() if readme.exists() else ""
    first, last = text.find(begin), text.find(end)
    if not 0 <= first < last:
        message = f"{readme.name} is unchanged: expected the markers {begin} and {end} in it, in this order"
        print(message, file=sys.stderr, flush=True)
        return False
    readme.write_text(f"{text[: first + len(begin)]}\n{table}\n{text[last:]}")
    return True
