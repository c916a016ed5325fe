"""Rows as Markdown."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

from bench.markdown import heading, line, number
from bench.row import Row

Column = tuple[str, Callable[[Row], str]]
"""A heading, and the cell of an operator's row."""

# Method, size and dtype of the lines of the README: photographs.
SPEED = (
    ("divprune", "576, k = 58", "bfloat16"),
    ("divprune", "2,916, k = 292", "bfloat16"),
    ("divprune", "2,916, k = 292", "float32"),
    ("idpruner", "2,916, k = 292", "bfloat16"),
    ("dpp", "2,916, k = 292", "bfloat16"),
)


def rows_of(result: dict[str, Any]) -> list[Row]:
    """The rows of a JSON file."""
    return [Row.read(row) for row in result["rows"]]


def operators(rows: Sequence[Row], scale: float = 1.0, more: Sequence[Column] = ()) -> list[str]:
    """The operators, each on one line with its peers; of the photographs of one size, the one that gains least.

    Args:
        rows: of the operators and their peers.
        scale: what milliseconds are multiplied by.
        more: columns that only some devices have.
    """
    lines = heading(
        (
            "operator",
            "tokens",
            "N, k",
            "dtype",
            "time (least to most)",
            "share of the bound",
            "fastest correct peer",
            "times faster",
            "fastest peer, right or wrong",
            "times faster",
            *(name for name, _ in more),
        )
    )
    groups: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        if row.ours:
            groups.setdefault((row.method, row.kind, row.size, row.dtype), []).append(row)
    seen = list(itertools.chain.from_iterable(groups))
    ordered = sorted(groups, key=lambda each: [*map(seen.index, each)])
    return lines + [_operator_line(groups[alike], scale, more) for alike in ordered]


def least_gain(rows: Sequence[Row]) -> Row:
    """The operator with the smallest ratio to its fastest correct peer, or the first without a time."""
    return min(rows, key=lambda row: -1.0 if row.times is None else row.ratio or float("inf"))


def _operator_line(rows: list[Row], scale: float, more: Sequence[Column]) -> str:
    row = least_gain(rows)
    tokens = row.kind if len(rows) == 1 else f"{row.kind}, worst of {len(rows)}"
    named = [f"`{row.method}`", tokens, row.size, row.dtype]
    times = row.times
    if times is None:
        return line([*named, f"none: {_plain(row.note)}", *["-"] * (5 + len(more))])
    median, least, most = (number(scale * each) for each in (times.median, times.least, times.most))
    share = "-" if row.bound is None else f"{100 * row.bound / times.median:.0f} %"
    correct = _peer(row.fastest_correct_peer, row.ratio, scale * times.median)
    fastest = _peer(row.fastest_peer, row.ratio_to_fastest_peer, scale * times.median)
    cells = [
        f"{median} ({least} to {most})",
        share,
        *correct,
        *(("the same", "") if fastest == correct != ("-", "-") else fastest),
    ]
    return line([*named, *cells, *(cell(row) for _, cell in more)])


def _peer(name: str | None, ratio: float | None, median: float) -> tuple[str, str]:
    return ("-", "-") if name is None or ratio is None else (f"{number(ratio * median)} ({name})", number(ratio))


def left_out(rows: Sequence[Row], not_started: Sequence[str]) -> list[str]:
    """Sentences about what did not run, once for each reason."""
    reasons = dict.fromkeys(f"{row.name} ({_plain(row.note)})" for row in rows if row.times is None and not row.ours)
    sentences = [f"Left out: {'; '.join(reasons)}."] if reasons else []
    if not_started:
        first, *others = not_started
        more = f", and {len(others)} more" if others else ""
        sentences.append(f"Not started, for want of time: {first}{more}.")
    return sentences


def details(rows: Sequence[Row], scale: float = 1.0) -> str:
    """Every row, with its spread and its note."""
    lines = heading(
        ("method", "tokens", "N, k", "dtype", "implementation", "correct", "median", "least", "most", "calls", "note")
    )
    for row in rows:
        correct = {True: "yes", False: "no", None: "-"}[row.correct]
        times = row.times
        numbers = ["-"] * 4
        if times is not None:
            numbers = [*(number(scale * each) for each in (times.median, times.least, times.most)), str(times.samples)]
        lines.append(line((row.method, row.tokens, row.size, row.dtype, row.name, correct, *numbers, _plain(row.note))))
    return "\n".join(lines)


def speed(result: dict[str, Any]) -> str:
    """The README's table: a few rows of a CPU result."""
    rows = rows_of(result)
    lines = heading(("method, dtype", "N -> k", "ours, ms", "fastest correct peer, ms", "times faster"))
    for method, size, dtype in SPEED:
        alike = [
            row
            for row in rows
            if row.ours and (row.kind, row.method, row.size, row.dtype) == ("photograph", method, size, dtype)
        ]
        if not alike:
            continue
        row = least_gain(alike)
        median = None if row.times is None else row.times.median
        peer, ratio = _peer(row.fastest_correct_peer, row.ratio, median or 0.0)
        lines.append(line((f"`{method}` {dtype}", size.replace(", k =", " ->"), number(median), peer, ratio)))
    machine = result["machine"]
    return "\n".join(
        [
            *lines,
            "",
            f"Photographs, D = {machine['depth']:,}, of each size the one that gains least; {machine['processor']}, "
            f"{machine['threads']} threads, `{machine['isa']}`.",
        ]
    )


def _plain(note: str) -> str:
    return note.replace("|", "/")
