"""The best loops under torch.compile, on the smallest photograph."""

from __future__ import annotations

import subprocess

import pytest
import torch

from bench.result_file import described

from . import compiled
from .cases import DTYPES
from .record import Record
from .rows import Row


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("method", compiled.LOOPS)
def test_compiled(pytestconfig: pytest.Config, record: Record, method: str, dtype: torch.dtype) -> None:
    if pytestconfig.getoption("quick"):
        pytest.skip("not with --quick")
    case, name = compiled.compiled_case(method, dtype), compiled.NAMES[method]
    if not record.start(f"{name} on {case}"):
        pytest.skip("no time is left")
    seconds = min(compiled.LONGEST_COMPILATION, record.budget.left())
    try:
        record.rows.append(compiled.compiled_row(case, seconds))
    except subprocess.SubprocessError as error:
        timeout = isinstance(error, subprocess.TimeoutExpired)
        row = Row.on(case, name)
        row.note = f"not compiled within {seconds:.0f} s" if timeout else described(error)
        record.rows.append(row)
        pytest.skip(row.note)
