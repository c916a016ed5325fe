"""An engine that keeps everything, and one without the option, say what vLLM says without this package, bit for bit."""

import pytest

pytest.importorskip("vllm")

from tests.vllm.engine import load_classes, running
from tests.vllm.requests import kinds
from tests.vllm.tiny import MAKERS
from tokenprune_kernels.integrations.vllm.registration import ARCHITECTURES

pytestmark = pytest.mark.vllm
FAST = ("llava", "qwen2_5_vl")


@pytest.fixture
def without_plugin():
    """vLLM's own classes."""
    from vllm import ModelRegistry
    from vllm.model_executor.models.registry import _VLLM_MODELS

    load_classes()
    for architecture in ARCHITECTURES:
        module, name = _VLLM_MODELS[architecture]
        ModelRegistry.register_model(architecture, f"vllm.model_executor.models.{module}:{name}")
    yield
    load_classes.cache_clear()
    load_classes()


def unpruned(family, checkpoints, tokenprune):
    """The answers of an engine to requests without options."""
    requests = [request for request in kinds(family) if request.options is None]
    with running(family, checkpoints, tokenprune) as engine:
        return engine.answers(requests)


@pytest.fixture(params=[name if name in FAST else pytest.param(name, marks=pytest.mark.slow) for name in MAKERS])
def family(request):
    return request.param


def test_no_bit_changes(family, checkpoints, request):
    answers = [unpruned(family, checkpoints, tokenprune) for tokenprune in (None, {"keep_ratio": 1.0})]
    request.getfixturevalue("without_plugin")
    own = unpruned(family, checkpoints, None)
    assert answers[0] == own
    assert answers[1] == own
