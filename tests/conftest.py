import inspect
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


@pytest.fixture(autouse=True, scope="session")
def interpreter():
    """Triton's interpreter, made faster where it runs the kernels."""
    if not INTERPRETED:
        yield
        return
    pytest.importorskip("triton", reason="the Triton backend needs triton")
    from tests.support.interpreter import make_faster

    with pytest.MonkeyPatch.context() as monkeypatch:
        make_faster(monkeypatch)
        yield


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


def pytest_collection_modifyitems(config, items):
    """Applies the marks of `tests.support.slow`."""
    left_out = []
    for item in items:
        if item.get_closest_marker("alone") and item.path.parent.name != "native":
            raise pytest.UsageError(f"{item.nodeid}: expected a test that runs alone to be in tests/native")
        interpreted = item.get_closest_marker("interpret") is not None
        if _fulfils_one(item, "slow_if") or (interpreted and _fulfils_one(item, "slow_if_interpreted")):
            item.add_marker(pytest.mark.slow)
        if interpreted and _fulfils_one(item, "not_interpreted_if"):
            left_out.append(item)
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in set(left_out)]


def _fulfils_one(item, name):
    """Whether the parameters of a test fulfil the condition of one of its marks."""
    return any(_fulfils(item, *mark.args) for mark in item.iter_markers(name))


def _fulfils(item, condition):
    return condition(**{name: item.callspec.params[name] for name in inspect.signature(condition).parameters})
