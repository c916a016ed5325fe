"""Tables in Markdown, and their places in documents."""

from __future__ import annotations

import math
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


def heading(names: Iterable[str]) -> list[str]:
    """The first two lines of a table."""
    names = list(names)
    return [line(names), line("---" for _ in names)]


def _span(name: str, path: Path) -> tuple[str, int, int]:
    begin, end = f"<!-- {name} begin -->\n", f"<!-- {name} end -->"
    text = path.read_text() if path.exists() else ""
    first, last = text.find(begin), text.find(end)
    if not 0 <= first < last:
        raise ValueError(f"{path.name}: expected the markers {begin.strip()} and {end}, in this order, got none")
    return text, first + len(begin), last


def between(name: str, path: Path) -> str:
    """What stands between the two markers of a table.

    Raises:
        ValueError: where a marker is missing.
    """
    text, first, last = _span(name, path)
    return text[first:last].removesuffix("\n")


def put_between(name: str, table: str, path: Path) -> None:
    """Replaces what stands between the two markers of a table.

    Raises:
        ValueError: where a marker is missing.
    """
    text, first, last = _span(name, path)
    path.write_text(f"{text[:first]}{table}\n{text[last:]}")
