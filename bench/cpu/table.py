"""A result as Markdown."""

from __future__ import annotations

import itertools
from typing import Any

from bench.markdown import heading, line, number

from .implementations import OPERATOR

BEGIN, END = "<!-- cpu table begin -->", "<!-- cpu table end -->"


def summary(result: dict[str, Any]) -> str:
    """The operators, each on one line with its peers; of the photographs of one size, the one that gains least."""
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
        )
    )
    groups: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for row in result["rows"]:
        if row["implementation"] == OPERATOR.name:
            groups.setdefault((row["method"], row["kind"], row["size"], row["dtype"]), []).append(row)
    seen = list(itertools.chain.from_iterable(groups))
    lines += [_operator_line(groups[alike]) for alike in sorted(groups, key=lambda each: [*map(seen.index, each)])]
    lines += ["", _memory_sentence(result["memory"]), "", _machine_sentence(result["machine"])]
    left_out = _left_out(result["rows"])
    if left_out:
        lines.append(f"Left out: {'; '.join(left_out)}.")
    if result["not_started"]:
        first, *others = result["not_started"]
        lines.append(f"Not started, for want of time: {first}, and {len(others)} more.")
    return "\n".join(lines)


def _operator_line(rows: list[dict[str, Any]]) -> str:
    """The row with the smallest ratio, or the first without a time."""
    row = min(rows, key=lambda row: -1.0 if row["times"] is None else row["ratio"] or float("inf"))
    tokens = row["kind"] if len(rows) == 1 else f"{row['kind']}, worst of {len(rows)}"
    named = [f"`{row['method']}`", tokens, row["size"], row["dtype"]]
    times = row["times"]
    if times is None:
        return line([*named, f"none: {_plain(row['note'])}", *["-"] * 5])
    spread = f"{number(times['median'])} ({number(times['least'])} to {number(times['most'])})"
    share = "-" if row["bound"] is None else f"{100 * row['bound'] / times['median']:.0f} %"
    correct = _peer(row["fastest_correct_peer"], row["ratio"], times["median"])
    fastest = _peer(row["fastest_peer"], row["ratio_to_fastest_peer"], times["median"])
    return line([*named, spread, share, *correct, *(("the same", "") if fastest == correct else fastest)])


def _peer(name: str | None, ratio: float | None, median: float) -> tuple[str, str]:
    return ("-", "-") if name is None or ratio is None else (f"{number(ratio * median)} ({name})", number(ratio))


def _memory_sentence(memory: dict[str, Any]) -> str:
    measured = [
        f"`{each['method']}` {each['dtype']} {number(each['megabytes'])} MB"
        + (f" ({each['note']})" if each["note"] else "")
        for each in memory["rows"]
    ]
    return (
        f"Peak extra memory at N = {memory['count']:,}, D = {memory['depth']:,}, k = {memory['k']:,}: "
        f"{', '.join(measured) or 'not measured'}; a float32 similarity matrix takes "
        f"{number(memory['similarities_megabytes'])} MB."
    )


def _machine_sentence(machine: dict[str, Any]) -> str:
    rates = ", ".join(f"{name} {number(rate)} GFLOP/s" for name, rate in machine["product_gigaflops"].items())
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    return (
        f"Milliseconds, D = {machine['depth']:,}; photographs of scikit-image, their 14 x 14 patches times a seeded "
        f"Gaussian matrix. {machine['processor']}, {machine['threads']} threads, "
        f"`{machine['isa']}`; a large product reaches {rates}. {versions}."
    )


def _left_out(rows: list[dict[str, Any]]) -> list[str]:
    """What did not run, once for each reason."""
    return list(
        dict.fromkeys(
            f"{row['implementation']} ({_plain(row['note'])})"
            for row in rows
            if row["times"] is None and row["implementation"] != OPERATOR.name
        )
    )


def details(result: dict[str, Any]) -> str:
    """Every row, with its spread and its note."""
    lines = heading(
        ("method", "tokens", "N, k", "dtype", "implementation", "correct", "median", "least", "most", "calls", "note")
    )
    for row in result["rows"]:
        times = row["times"] or {}
        lines.append(
            line(
                (
                    row["method"],
                    row["tokens"],
                    row["size"],
                    row["dtype"],
                    row["implementation"],
                    {True: "yes", False: "no", None: "-"}[row["correct"]],
                    *(number(times.get(name)) for name in ("median", "least", "most")),
                    str(times.get("samples", "-")),
                    _plain(row["note"]),
                )
            )
        )
    return "\n".join(lines)


def _plain(note: str) -> str:
    return note.replace("|", "/")
