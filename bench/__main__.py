"""The benchmarks: ``python -m bench COMMAND``, from the root of the source tree.

Each command has its own ``--help``.
"""

from __future__ import annotations

import functools
import importlib
import sys
from collections.abc import Callable, Sequence

COMMANDS = {
    "cpu": "the operators on the CPU beside their peers",
    "cuda": "the same on a GPU",
    "gpu": "contact, tests, bits, speed and more on a GPU, in stages within a budget",
    "host": "what a call on a GPU costs in Python before its last launch, without a GPU",
    "load": "the operators on a CPU that other work keeps busy",
    "clusters": "DivPrune on up to a million rows in clusters",
    "rows": "the command select on a million rows of a file, in one process and two",
    "e2e": "7B models in full width with and without pruning",
    "vllm": "requests to a vLLM engine with and without pruning",
    "accuracy": "what pruning costs in answers, on a small model that is trained here",
    "analysis": "importance against diversity, on photographs and saved features",
    "render": "every table of the documents from the committed results",
    "demo": "prunes a photograph",
    "picture": "draws the picture of README",
}


def command_named(name: str) -> Callable[[Sequence[str]], int]:
    """What runs a command, given its arguments."""
    if name in ("cpu", "cuda"):
        return functools.partial(importlib.import_module("bench.run").main, name)
    modules = {
        "accuracy": "bench.accuracy.run",
        "e2e": "bench.end_to_end.run",
        "gpu": "bench.gpu.run",
        "vllm": "bench.vllm_serving",
    }
    module = modules.get(name, f"bench.{name}")
    return importlib.import_module(module).main


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command; the exit code is 2 where there is none of that name."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    if not given or given[0] not in COMMANDS:
        print(__doc__, *(f"  {name:<10}{what}" for name, what in COMMANDS.items()), sep="\n", file=sys.stderr)
        return 2
    return command_named(given[0])(given[1:])


if __name__ == "__main__":
    sys.exit(main())
