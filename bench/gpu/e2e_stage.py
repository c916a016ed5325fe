"""End to end: a vision-language model in full depth, with and without pruning, as far as time allows."""

from __future__ import annotations

import importlib.util
import json
import sys
import time
from collections.abc import Sequence
from typing import Any

from bench.files import file_name
from bench.gpu.findings import MEASURED, PASSED, REFUSED, Finding, Findings
from bench.gpu.process import run_command

STAGE = "e2e"


def run(findings: Findings, deadline: float, device: str) -> None:
    """Measures one model after the other, each in a process of its own."""
    reason = refused()
    if reason:
        findings.add(Finding(STAGE, "transformers", REFUSED, detail=reason))
        return
    settled = findings.settled(STAGE)
    for model in models():
        if model not in settled and time.monotonic() < deadline - 10:
            measure(findings, model, deadline)


def refused() -> str:
    """Why the integration cannot run with the transformers that is there; empty where it can."""
    if importlib.util.find_spec("transformers") is None:
        return "transformers is not installed"
    try:
        from tokenprune_kernels.integrations.transformers import requirement  # noqa: F401
    except ImportError as error:
        return str(error).splitlines()[0]
    return ""


def models() -> Sequence[str]:
    """The names of the models."""
    from bench.end_to_end.models import MODELS as KNOWN

    return [case.name for case in KNOWN]


def measure(findings: Findings, model: str, deadline: float) -> None:
    """One model. Its table is in the log."""
    folder = findings.path.parent
    result = folder / f"{file_name('e2e-gpu', model)}"
    command = [sys.executable, "-m", "bench", "e2e", "--device", "cuda", "--runs", "3", "--models", model]
    ended = run_command([*command, "--out", str(result)], deadline - time.monotonic(), folder / "gpu-stages.log")
    facts = facts_of(json.loads(result.read_text())) if ended.outcome == PASSED else {}
    outcome = MEASURED if ended.outcome == PASSED else ended.outcome
    findings.add(Finding(STAGE, model, outcome, ended.seconds, ended.detail, facts))


def facts_of(result: dict[str, Any]) -> dict[str, float]:
    """The milliseconds of the prefill with each pruner."""
    rows = [row for model in result["models"] for row in model["rows"] if row["prefill"]]
    return {f"prefill_ms, {row['pruner']}": row["prefill"]["median"] for row in rows}
