"""The summary of a visit, on one screen."""

from __future__ import annotations

import collections

from bench.gpu import stages
from bench.gpu.findings import FAILURES, MEASURED, Finding, Findings

LINES = 40
"""Of a screen."""

WIDTH = 150
SHOWN_EACH = 3
"""How many failures of a stage are listed, before the others are counted."""


def of_stage(name: str, findings: Findings) -> str:
    """One line: how the stage ended, and how many findings of each outcome it left."""
    ended = next((each for each in findings.read() if (each.stage, each.name) == (name, "")), None)
    counts = collections.Counter(finding.outcome for finding in findings.of(name).values())
    counted = ", ".join(f"{count} {outcome}" for outcome, count in counts.items()) or "nothing found"
    if ended is None:
        return f"  {name:<8} not run: {counted}"
    how = "" if ended.outcome == "passed" else f"{ended.outcome}{f' ({ended.detail})' if ended.detail else ''}: "
    return f"  {name:<8} {ended.seconds:4.0f} s  {how}{counted}"


def _line(finding: Finding) -> str:
    facts = ", ".join(f"{name} {_shown(value)}" for name, value in finding.facts.items())
    said = "; ".join(filter(None, (finding.detail, facts)))
    return f"    {finding.name}: {finding.outcome}{f', {said}' if said else ''}"[:WIDTH]


def _shown(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def table(findings: Findings) -> str:
    """All stages that were run: their failures first, then what they measured, as much as fits the screen."""
    lines, facts = [], []
    for stage in stages.STAGES:
        found = findings.of(stage.name)
        if not found and not any(each.stage == stage.name for each in findings.read()):
            continue
        lines.append(of_stage(stage.name, findings))
        failed = [finding for finding in found.values() if finding.outcome in FAILURES]
        lines += [_line(finding) for finding in failed[:SHOWN_EACH]]
        if len(failed) > SHOWN_EACH:
            lines.append(f"    and {len(failed) - SHOWN_EACH} more")
        facts += [finding for finding in found.values() if finding.facts and finding not in failed]
    room = max(0, LINES - len(lines) - 1)
    told = [_line(finding) for finding in sorted(facts, key=lambda finding: finding.outcome != MEASURED)]
    shown = told[:room] if len(told) <= room else [*told[: room - 1], f"    and {len(told) - room + 1} more"]
    return "\n".join(["GPU stages", *lines, *shown]) if lines else "GPU stages: nothing was found yet"
