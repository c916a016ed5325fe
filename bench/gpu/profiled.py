"""``python -m bench.gpu.profiled FORM N``: calls of DivPrune, the last of which a profiler looks at."""

from __future__ import annotations

import sys

import torch

from bench import inputs
from bench.cases import Case, task
from bench.gpu.calls import Call
from bench.peers import OPERATOR


def main(form: str, count: str) -> None:
    """Makes the calls."""
    tokens = inputs.clustered(int(count), ks=(int(count) // 10,), depth=4_096)
    call = Call(Case(tokens, "divprune", torch.bfloat16), form)
    given = task(call.case, "cuda")
    select = OPERATOR.prepare(given)
    with call.settings():
        select(given.x)
        torch.cuda.synchronize()
        torch.cuda.profiler.start()
        select(given.x)
        torch.cuda.synchronize()
        torch.cuda.profiler.stop()


if __name__ == "__main__":
    main(*sys.argv[1:])
