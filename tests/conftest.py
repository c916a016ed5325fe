import math
import os

import pytest
import torch

import tokenprune_kernels
from tests.support import inputs

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"


@pytest.fixture(autouse=True, scope="session")
def poisoned_empty():
    """Memory nobody has written reads as NaN or as the largest integer, in Python and in C++."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    assert torch.empty(7).isnan().all()
    assert (torch.empty(7, dtype=torch.int64) == torch.iinfo(torch.int64).max).all()


@pytest.fixture(
    params=[
        pytest.param(("native", "cpu"), id="native"),
        pytest.param(("triton", "cpu"), id="triton", marks=pytest.mark.interpret),
        pytest.param(("triton", "cuda"), id="gpu", marks=pytest.mark.gpu),
    ]
)
def backend(request):
    """Runs the test once on every backend: `tests.support.inputs.ops` calls its operators, on its device."""
    name, device = request.param
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    if name == "triton" and (device == "cpu") != INTERPRETED:
        pytest.skip("TRITON_INTERPRET=1 is for the interpreter, and only for it")
    with tokenprune_kernels.use_backend(name), inputs.on_device(device):
        yield name


@pytest.fixture
def threads():
    """Sets the number of threads, and puts it back after the test."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def pytest_collection_modifyitems(items):
    """Marks interpreted tests slow unless their sizes are small: a pick takes milliseconds there.

    Every dtype keeps a test that is not slow, and so does every layout.
    """
    for item in items:
        if item.get_closest_marker("interpret") and not _bearable(item.path.stem, **item.callspec.params):
            item.add_marker(pytest.mark.slow)


def _bearable(
    module, method=None, layout="contiguous", dtype=torch.bfloat16, count=0, depth=0, k=0, batch=(), flush=False, **_
):
    small = count <= 60 and k <= 50 and depth <= 64 and math.prod(batch) <= 2
    if method == "dpp":  # its blocks are small, and each has a turn at every pick
        small = small and k <= 20 and (0 < count <= 33 or module in ("test_edge_rows", "test_grid"))
    return (
        small
        and not flush
        and (dtype == torch.bfloat16 or (module == "test_selection" and layout == "contiguous"))
        and (layout == "contiguous" or count in (33, 50))
    )
