"""Contact: what the machine has, then each kernel and form once on a small input, in a process of its own."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from typing import Any

from bench.files import described
from bench.gpu import machine, process
from bench.gpu.findings import ERROR, MEASURED, PASSED, Finding, Findings

STAGE = "contact"
EACH_SECONDS = 15.0
INTERPRETED_SECONDS = 60.0
SIDE_BY_SIDE = 8
WARPS = (4, 8)


def run(findings: Findings, deadline: float, device: str) -> None:
    """Runs all checks that are not settled."""
    look_around(findings)
    if device == "cuda":
        from bench.gpu import ahead, calls

        # Compilation is most of a first call. It needs processors, and no device.
        half = (time.monotonic() + deadline) / 2
        seconds, missing = ahead.compile_all(calls.small_calls(), machine.architecture(), half)
        findings.add(Finding(STAGE, "compiled ahead", MEASURED, seconds, facts=missing))
    run_checks(findings, STAGE, checks(device), deadline, EACH_SECONDS if device == "cuda" else INTERPRETED_SECONDS)


def look_around(findings: Findings) -> None:
    """Writes down what can be known without touching the device."""
    findings.add(Finding(STAGE, "versions", MEASURED, facts=machine.versions()))
    missing = machine.compiler()
    findings.add(Finding(STAGE, "compiler for launchers", ERROR if missing else PASSED, detail=missing))
    try:
        findings.add(Finding(STAGE, "device", MEASURED, facts=machine.device()))
    except Exception as error:
        findings.add(Finding(STAGE, "device", ERROR, detail=described(error)))


def checks(device: str) -> dict[str, Callable[[], Any]]:
    """The checks, by name: the parts that a selection cannot do without, then selections."""
    from bench.gpu import calls, probes

    # The interpreter takes tens of milliseconds a pick.
    small = calls.small_calls() if device == "cuda" else calls.small_calls(16, 8, 4)
    parts: dict[str, Callable[[], Any]] = {"copy": functools.partial(_copy, device)}
    parts["grid barrier"] = functools.partial(probes.hold_barrier, 200, device)
    for warps in WARPS:
        for kind, values in (("few ties", probes.FEW_TIES), ("many ties", probes.MANY_TIES)):
            parts[f"candidates, {kind}, {warps} warps"] = functools.partial(probes.choose, warps, values, device)
    return parts | {call.name: functools.partial(calls.judged, call, device) for call in small}


def run_checks(
    findings: Findings,
    stage: str,
    given: dict[str, Callable[[], Any]],
    deadline: float,
    seconds: float = EACH_SECONDS,
    side_by_side: int = SIDE_BY_SIDE,
) -> None:
    """Runs the checks that are not settled, each in a process of its own, and adds each finding at once."""
    settled = findings.settled(stage)

    def report(name: str, ended: process.Ended) -> None:
        findings.add(Finding(stage, name, ended.outcome, ended.seconds, ended.detail, ended.facts))

    left = {name: check for name, check in given.items() if name not in settled}
    process.run_forked(left, seconds, report, deadline=deadline, side_by_side=side_by_side)


def _copy(device: str) -> dict[str, Any]:
    """A tensor there and back, by torch alone."""
    import torch

    start = time.monotonic()
    x = torch.arange(1_000, device=device)
    if x.flip(0).cpu().tolist() != list(range(999, -1, -1)):
        raise process.WrongResultError("a copy came back changed")
    return {"seconds_to_first_result": time.monotonic() - start}
