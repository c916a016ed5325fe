"""Rows, results and small inputs for the tests of the benchmarks."""

import dataclasses

import torch

from bench import inputs
from bench.cases import Case
from bench.devices.cpu import Cpu
from bench.peers import OPERATOR
from bench.row import Row
from bench.times import Times

SMALL = inputs.clustered(40, clusters=9)
TINY_BATCH = inputs.clustered(12, 12, depth=16, layout=inputs.BATCH, ks=(3, 3))
TINY_PACKED = inputs.clustered(20, 11, 35, depth=16, layout=inputs.PACKED, ks=(4, 2, 5))


class Clock(Cpu):
    """A processor on which calls take 1, 2 and 6 ms."""

    again_seconds = 0.0

    def time(self, select, x, how="", seconds=None):
        return [select(x) for _ in range(4)], [1.0, 2.0, 6.0]

    def explain(self, row, given, select):
        pass  # the rates of this machine take seconds


def row(implementation=OPERATOR.name, median=None, dtype=torch.float32, tokens=SMALL, method="divprune", **fields):
    made = Row.on(Case(tokens, method, dtype), implementation)
    made.times = None if median is None else Times(median, median / 2, 2 * median, 5)
    return dataclasses.replace(made, **fields)


def cpu_result(*rows, extra_memory=(), not_started=()):
    return {
        "machine": {
            "processor": "Some CPU",
            "threads": 2,
            "isa": "avx2",
            "depth": 4_096,
            "product_gigaflops": {"float32": 390.0},
            "versions": {"torch": "1.0"},
        },
        "memory": {"count": 16, "depth": 8, "k": 2, "similarities_megabytes": 1_074.0, "rows": list(extra_memory)},
        "rows": [dataclasses.asdict(each) for each in rows],
        "not_started": list(not_started),
    }
