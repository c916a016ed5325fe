"""An engine that keeps everything, and one without the option, say what vLLM says without this package, bit for bit."""

import pytest

pytest.importorskip("vllm")

from tests.vllm.engine import load_classes, running
from tests.vllm.requests import kinds
from tests.vllm.tiny import FAMILIES
from tokenprune_kernels.integrations.vllm import registration

pytestmark = pytest.mark.vllm
FAST = ("llava", "qwen2_5_vl")


@pytest.fixture
def without_plugin():
    """vLLM's own classes."""
    from vllm import ModelRegistry

    load_classes()
    for architecture, own in registration.OWN.items():
        ModelRegistry.register_model(architecture, own.load_model_cls())
    yield
    load_classes.cache_clear()
    load_classes()


def unpruned(family, checkpoints, tokenprune):
    """The answers of an engine to requests without options, and the package that its model's class is of."""
    requests = [request for request in kinds(family) if request.options is None]
    with running(family, checkpoints, tokenprune) as engine:
        return engine.answers(requests), type(engine.model).__module__.partition(".")[0]


@pytest.fixture(params=[name if name in FAST else pytest.param(name, marks=pytest.mark.slow) for name in FAMILIES])
def family(request):
    return request.param


def test_no_bit_changes(family, checkpoints, request):
    without, all_kept = (unpruned(family, checkpoints, tokenprune) for tokenprune in (None, {"keep_ratio": 1.0}))
    request.getfixturevalue("without_plugin")
    own, package = unpruned(family, checkpoints, None)
    assert package == "vllm"
    assert without == (own, "tokenprune_kernels")
    assert all_kept == (own, "tokenprune_kernels")
