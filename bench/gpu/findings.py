"""What the stages found: a file of JSON lines, one a finding, written at once."""

from __future__ import annotations

import json
import os
from collections.abc import Collection
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

FILE = "gpu-stages.jsonl"

PASSED, MEASURED = "passed", "measured"
WRONG, ERROR, CRASHED, TIMED_OUT = "wrong", "error", "crashed", "timed out"
SKIPPED, REFUSED, NOT_STARTED = "skipped", "refused", "not started"
FAILURES = (WRONG, ERROR, CRASHED, TIMED_OUT)
UNTRIED = (SKIPPED, REFUSED, NOT_STARTED)


@dataclass(frozen=True)
class Finding:
    """One line of the file.

    Attributes:
        stage: that found it.
        name: of what was tried; empty for the stage itself.
        outcome: one of the words above.
        seconds: that it took.
        detail: why, in one line.
        facts: numbers and names.
    """

    stage: str
    name: str
    outcome: str
    seconds: float = 0.0
    detail: str = ""
    facts: dict[str, Any] = field(default_factory=dict)


class Findings:
    """The file of a visit. Several processes may add to it."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / FILE

    def add(self, finding: Finding) -> None:
        """Appends a line. It is on the disk when this returns, whatever becomes of the process."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a") as file:
            file.write(json.dumps(asdict(finding)) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def read(self) -> list[Finding]:
        """The latest finding of each name, in the order of the first ones. A line cut short is left out."""
        latest: dict[tuple[str, str], Finding] = {}
        for line in self.path.read_text().splitlines() if self.path.exists() else ():
            try:
                finding = Finding(**json.loads(line))
            except (ValueError, TypeError):
                continue
            latest[finding.stage, finding.name] = finding
        return list(latest.values())

    def forget(self, stages: Collection[str], outcomes: Collection[str] = ()) -> None:
        """Removes the findings of these stages: those with these outcomes, or all."""
        lines = [
            json.dumps(asdict(finding)) + "\n"
            for finding in self.read()
            if finding.stage not in stages or (outcomes and finding.outcome not in outcomes)
        ]
        if self.path.exists():
            partial = self.path.with_suffix(".partial")
            partial.write_text("".join(lines))
            partial.replace(self.path)

    def of(self, stage: str) -> dict[str, Finding]:
        """The latest findings of a stage, by name; that of the stage itself is left out."""
        return {finding.name: finding for finding in self.read() if finding.stage == stage and finding.name}

    def settled(self, stage: str) -> set[str]:
        """The names of a stage that were tried: a stage that goes on leaves them out."""
        return {name for name, finding in self.of(stage).items() if finding.outcome not in UNTRIED}
