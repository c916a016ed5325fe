"""What one run has measured, and the files it goes to."""

from __future__ import annotations

import dataclasses
import json
import platform
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

import tokenprune_kernels
from bench.budget import Budget
from bench.markdown import put_between
from bench.result_file import file_name, processor

from . import memory, table
from .cases import Case
from .inputs import DIMENSIONS
from .measure import Measured
from .rates import product_rate
from .rows import Row, compare

PEERS = ("torch-quickfps", "pyversity", "langchain-core")


class Record:
    """The rows of a run, the operator on the cases so far, and the time that is left."""

    def __init__(self, budget: Budget, planned: set[Case]) -> None:
        self.budget = budget
        self.planned = planned
        self.rows: list[Row] = []
        self.memory: list[dict[str, Any]] = []
        self.not_started: list[str] = []
        self.operators: dict[Case, Measured] = {}
        self.reached: set[Case] = set()

    def start(self, name: str) -> bool:
        """Whether there is time for one more measurement."""
        if self.budget.left() <= 0:
            self.not_started.append(name)
            return False
        return True

    @property
    def whole(self) -> bool:
        """Whether the run came to every case, with or without time left for it."""
        return self.planned <= self.reached

    def result(self) -> dict[str, Any]:
        """The content of the JSON file."""
        compare(self.rows)
        return {
            "machine": machine(),
            "rows": [dataclasses.asdict(row) for row in self.rows],
            "memory": {
                "count": memory.COUNT,
                "depth": memory.DEPTH,
                "k": memory.K,
                "similarities_megabytes": memory.SIMILARITIES_MEGABYTES,
                "rows": self.memory,
            },
            "not_started": self.not_started,
        }


def machine() -> dict[str, Any]:
    """The processor and the versions that the numbers belong to."""
    return {
        "processor": processor(),
        "threads": torch.get_num_threads(),
        "isa": tokenprune_kernels.build_info()["backends"]["native"]["isa"],
        "depth": DIMENSIONS,
        "product_gigaflops": {
            str(dtype).removeprefix("torch."): 1e-9 * product_rate(dtype) for dtype in (torch.bfloat16, torch.float32)
        },
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numpy": metadata.version("numpy"),
            **{name: version for name in PEERS if (version := _version(name))},
        },
    }


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""


def publish(result: dict[str, Any], root: Path) -> None:
    """Writes the result's file, and its table into README.md."""
    out = root / "bench" / "results" / f"cpu-{file_name(result['machine']['processor'])}"
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(result, indent=1) + "\n")
    put_between(table.BEGIN, table.END, table.summary(result), root / "README.md")
