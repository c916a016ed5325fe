"""``python -m bench.gpu.profiled METHOD FORM N``: two calls, the second of which a profiler looks at."""

from __future__ import annotations

import sys

import torch

from bench import inputs
from bench.cases import Case, task
from bench.gpu.calls import Call
from bench.peers import OPERATOR


def main(method: str, form: str, count: str) -> None:
    """Makes the calls."""
    tokens = inputs.clustered(int(count), ks=(int(count) // 10,), depth=4_096)
    call = Call(Case(tokens, method, torch.bfloat16), form)
    given = task(call.case, "cuda")
    select = OPERATOR.prepare(given)
    with call.settings():
        for _ in range(2):
            select(given.x)
    torch.cuda.synchronize()


if __name__ == "__main__":
    main(*sys.argv[1:])
