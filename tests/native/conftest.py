import pytest
import torch


@pytest.fixture
def force_threads():
    """Sets the number of threads of the native backend, whatever processors there are and however busy they are."""
    force = torch.ops.tokenprune_native._force_threads
    yield force
    force(0)
