"""vLLM's second model runner in Triton's interpreter: `... -m tests.vllm.second_runner FAMILY FOLDER TRITON DRAFTER`.

Prints the differences to transformers. vLLM and Triton read the environment when they are imported, so it is a program
of its own.
"""

import json
import os
import sys
from pathlib import Path
from types import SimpleNamespace

from tests.vllm import conftest  # noqa: F401 - sets what vLLM reads
from tests.vllm.drafters import drafted
from tests.vllm.engine import MEASURED, running
from tests.vllm.requests import ENGINE, kinds

RUNNER = "vllm.v1.worker.cpu.model_runner"


def interpret(folder):
    """Makes vLLM for CPUs take the Triton in a folder, which interprets, for one that compiles for CPUs."""
    os.environ |= {"TRITON_INTERPRET": "1", "VLLM_USE_V2_MODEL_RUNNER": "1"}
    sys.path.append(folder)
    from triton.backends import backends

    backends.clear()
    backends["cpu"] = SimpleNamespace(driver=SimpleNamespace(is_active=lambda: True))


def main():
    family, folder, triton, drafter = sys.argv[1:]
    interpret(triton)
    options = {"max_num_batched_tokens": 64}  # cuts images into chunks
    if drafter:
        options["speculative_config"] = drafted(drafter, Path(folder))
    with running(family, Path(folder), ENGINE, **options) as engine:
        runner = engine.llm.llm_engine.model_executor.driver_worker.worker.model_runner
        assert type(runner).__module__ == RUNNER, type(runner)
        if drafter:
            assert runner.speculator.supports_mm_inputs
        for requests in (kinds(family), kinds(family)[::-1]):
            engine.differences(requests)
        print(json.dumps(MEASURED))


if __name__ == "__main__":
    main()
