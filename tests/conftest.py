import pytest
import torch

import tokenprune_kernels


@pytest.fixture(autouse=True, scope="session")
def poisoned_empty():
    """Memory nobody has written reads as NaN or as the largest integer, in Python and in C++."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    assert torch.empty(7).isnan().all()
    assert (torch.empty(7, dtype=torch.int64) == torch.iinfo(torch.int64).max).all()


@pytest.fixture(params=["native"])
def backend(request):
    """Runs the test once on every backend."""
    with tokenprune_kernels.use_backend(request.param):
        yield request.param


@pytest.fixture
def threads():
    """Sets the number of threads, and puts it back after the test."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)
