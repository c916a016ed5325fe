"""Engines of vLLM in this process, one at a time. `make test-vllm` has the environment that they need."""

import importlib.util
import os
import platform
from pathlib import Path

import pytest

if importlib.util.find_spec("vllm") is not None:
    os.environ.update(  # read when vLLM is imported
        HF_HUB_OFFLINE="1",
        TORCH_COMPILE_DISABLE="1",  # of the logarithms alone: 20 seconds at the first request
        VLLM_CPU_KVCACHE_SPACE="1",
        VLLM_ENABLE_V1_MULTIPROCESSING="0",
        VLLM_LOGGING_LEVEL="ERROR",
    )


@pytest.fixture(autouse=True, scope="session")
def poisoned_empty():
    """Memory of vLLM's own is not poisoned: its kernels read what they mask."""


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory):
    return tmp_path_factory.mktemp("checkpoints")


def pytest_addoption(parser):
    parser.addoption("--vllm-results", type=Path, help="a file for a table of all outcomes")
    parser.addoption("--vllm-further", action="store_true", help="add to that file, as those of a further run")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item):
    """Notes the outcome of a test, how many answers it compared and the largest difference to transformers."""
    report = yield
    if item.config.getoption("--vllm-results", None) is None or (report.when != "call" and report.passed):
        return report
    from tests.vllm.engine import MEASURED

    OUTCOMES.append((item.name, report.outcome, len(MEASURED), max(MEASURED, default=None)))
    MEASURED.clear()
    return report


OUTCOMES = []
FURTHER = "Of further runs, with tests that were added or mended since:"


def pytest_sessionfinish(session):
    path = session.config.getoption("--vllm-results", None)
    if path is None:
        return
    import torch
    import transformers
    import vllm

    head = ["| test | outcome | answers | largest difference |", "|---|---|---|---|"]
    lines = [
        "# vLLM against transformers",
        "",
        f"Written by `make test-vllm-all`: vLLM {vllm.__version__}, torch {torch.__version__}, transformers "
        f"{transformers.__version__}, Python {platform.python_version()}, float32 on a CPU. The largest difference of "
        "top-20 log-probabilities over 6 greedy tokens; prompt lengths and tokens are equal, or the difference is "
        "infinite. A negative control is meant to differ.",
        "",
        *head,
    ]
    if session.config.getoption("--vllm-further"):
        before = path.read_text().rstrip()
        lines = [before] if FURTHER in before else [before, "", FURTHER, "", *head]
    for name, outcome, answers, worst in OUTCOMES:
        lines.append(f"| `{name}` | {outcome} | {answers or '-'} | {'-' if worst is None else f'{worst:.1e}'} |")
    path.write_text("\n".join(lines) + "\n")
