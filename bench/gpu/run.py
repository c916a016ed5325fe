"""``python -m bench gpu``, behind ``make gpu``: the stages, one process each, within a budget.

Findings go to ``gpu-stages.jsonl`` in the folder of the results as they are made, the output of the stages to
``gpu-stages.log`` beside it. ``--render`` reads them back, without a GPU.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

from bench import files
from bench.gpu import process, stages, summary
from bench.gpu.findings import ERROR, FAILURES, NOT_STARTED, Finding, Findings

LOG = "gpu-stages.log"
BUDGET_SECONDS = 480.0
LEAST_SECONDS = 5.0
"""A stage is not started with less than this left."""

MARGIN_SECONDS = 4.0


def parsed(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench gpu", description=__doc__.partition("\n")[0])
    parser.add_argument("--budget", type=float, metavar="SECONDS", default=BUDGET_SECONDS, help="of all stages (480)")
    parser.add_argument(
        "--stages",
        default=os.environ.get("GPU_STAGES", ""),
        help=f"some of {','.join(stages.NAMES)}; by default GPU_STAGES, or all",
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FOLDER",
        default=Path(os.environ.get("GPU_OUT") or files.RESULTS),
        help="of the results; by default GPU_OUT, or bench/results",
    )
    parser.add_argument("--resume", action="store_true", help="leave out what has been tried and did not fail")
    parser.add_argument("--render", action="store_true", help="print the summary of the results that are there")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="cpu: in Triton's interpreter")
    parser.add_argument("--stage", choices=stages.NAMES, help=argparse.SUPPRESS)
    parser.add_argument("--deadline", type=float, help=argparse.SUPPRESS)  # on the clock of time.monotonic
    return parser.parse_args(arguments)


def run_stages(
    chosen: Sequence[stages.Stage],
    findings: Findings,
    budget: float,
    options: Sequence[str] = (),
    command: Callable[..., list[str]] = stages.Stage.command,
) -> None:
    """Runs each stage, whatever became of those before it, as long as there is time."""
    folder, end = findings.path.parent, time.monotonic() + budget
    for number, stage in enumerate(chosen):
        seconds = stages.limits(chosen[number:], end - time.monotonic())[0]
        print(f"{stage.name}: up to {seconds:.0f} s, {stage.tells}", flush=True)
        if seconds < min(LEAST_SECONDS, stage.most):
            findings.add(Finding(stage.name, "", NOT_STARTED, 0.0, "no time was left"))
            continue
        # The stage stops by itself a little earlier, with what it has.
        given = command(stage, folder, time.monotonic() + max(1.0, seconds - MARGIN_SECONDS), options)
        ended = process.run_command(given, seconds, folder / LOG)
        findings.add(Finding(stage.name, "", ended.outcome, ended.seconds, ended.detail))
        print(summary.of_stage(stage.name, findings), flush=True)


def run_here(name: str, options: argparse.Namespace) -> NoReturn:
    """Runs one stage in this process, and ends the process."""
    code = 0
    try:
        module = importlib.import_module(f"bench.gpu.{name}_stage")
        module.run(Findings(options.out), options.deadline, options.device)
    except Exception as error:
        traceback.print_exc()
        Findings(options.out).add(Finding(name, "what ended it", ERROR, detail=files.described(error)))
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # an orderly exit would wait for children, and a broken device may keep these from ending


def main(arguments: Sequence[str]) -> int:
    """Runs the stages; the exit code is 1 where one of them or of their findings failed, and 2 for a wrong name."""
    options = parsed(arguments)
    if options.stage:
        run_here(options.stage, options)
    findings = Findings(options.out)
    if options.render:
        print(summary.table(findings))
        return 0
    try:
        chosen = stages.named(options.stages.replace(",", " ").split() or stages.NAMES)
    except ValueError as error:
        print(f"bench gpu: {error}")
        return 2
    findings.forget([stage.name for stage in chosen], FAILURES if options.resume else ())
    run_stages(chosen, findings, options.budget, ["--device", options.device])
    print(summary.table(findings))
    return 1 if any(finding.outcome in FAILURES for finding in findings.read()) else 0
