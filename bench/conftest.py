"""Options of ``make bench``, and what is done with the measurements of ``bench.cpu`` in the end."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench.budget import Budget
from bench.child import ROOT
from bench.cpu import record as records
from bench.cpu import table
from bench.cpu.cases import cases

BUDGET_SECONDS = 720.0

RECORD = pytest.StashKey[records.Record]()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("tokenprune_kernels")
    group.addoption("--quick", action="store_true", help="a few small inputs; the result is not written to files")
    group.addoption("--out", type=Path, help="also write the result to this file, of a part of the cases (-k) too")
    group.addoption(
        "--budget",
        type=float,
        default=BUDGET_SECONDS,
        help="seconds in which measurements may be started (%(default)s)",
    )


def pytest_configure(config: pytest.Config) -> None:
    config.stash[RECORD] = records.Record(Budget(config.getoption("budget")), set(cases()))


@pytest.fixture
def record(request: pytest.FixtureRequest) -> records.Record:
    return request.config.stash[RECORD]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    record = config.stash[RECORD]
    if not record.rows:
        return
    result = record.result()
    terminalreporter.write_line(f"\n{table.details(result)}\n\n{table.summary(result)}\n")
    if out := config.getoption("out"):
        out.write_text(json.dumps(result, indent=1) + "\n")
    if record.whole:
        records.publish(result, ROOT)
    else:
        terminalreporter.write_line("Not a whole run: bench/results and README.md stay as they are.")
