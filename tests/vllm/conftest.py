"""Engines of vLLM in this process, one at a time. `make test-vllm` has the environment that they need."""

import os

import pytest

# Read when vLLM is imported.
os.environ.update(
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
