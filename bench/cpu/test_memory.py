"""The memory that the operators take beside their tokens."""

from __future__ import annotations

import subprocess

import pytest
import torch

from bench.result_file import described

from . import memory
from .cases import DTYPES
from .record import Record


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("method", ["divprune", "idpruner"])
def test_memory(pytestconfig: pytest.Config, record: Record, method: str, dtype: torch.dtype) -> None:
    if pytestconfig.getoption("quick"):
        pytest.skip("not with --quick")
    name = str(dtype).removeprefix("torch.")
    if not record.start(f"memory of {method} {name}"):
        pytest.skip("no time is left")
    entry = {"method": method, "dtype": name, "megabytes": None, "note": ""}
    record.memory.append(entry)
    try:
        entry["megabytes"] = memory.extra_megabytes(method, name)
    except subprocess.SubprocessError as error:
        entry["note"] = described(error)
        pytest.skip(entry["note"])
