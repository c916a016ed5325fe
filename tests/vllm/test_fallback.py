"""A vLLM that this package does not go with: it says so in one line, and engines without the option do not notice."""

import logging
import re
from types import SimpleNamespace

import pytest

pytest.importorskip("vllm")

import vllm

from tests.vllm.engine import load_classes, running
from tests.vllm.media import Request
from tokenprune_kernels.integrations.vllm import registration, requirement

pytestmark = pytest.mark.vllm
LLAVA = "LlavaForConditionalGeneration"
GONE = "vllm.multimodal.hasher:MultiModalHasher"


def moved(monkeypatch):
    """A module of vLLM that is imported, and is not there any more."""

    def import_module(name):
        raise ModuleNotFoundError("No module named 'vllm.gone'")

    monkeypatch.setattr(registration, "importlib", SimpleNamespace(import_module=import_module))
    return r"tokenprune: expected another vllm, got ModuleNotFoundError\(\"No module named 'vllm.gone'\"\)"


def missing(monkeypatch):
    """An attribute that is leaned on, and is not there any more."""
    monkeypatch.setitem(requirement.SEAMS, GONE, ("hash_kwargs", "gone"))
    return r"tokenprune: expected a vllm with vllm\.multimodal\.hasher:MultiModalHasher\.gone, got vllm .* without"


def unsupported(monkeypatch):
    monkeypatch.setattr(vllm, "__version__", "0.34.0")
    return r"tokenprune: expected vllm 0\.31 to 0\.33 \(TOKENPRUNE_ANY_VLLM=1 insists on another\), got 0\.34\.0"


@pytest.fixture(params=[moved, missing, unsupported], ids=lambda cause: cause.__name__)
def message(request, monkeypatch):
    """What is said, while a class cannot be made for the reason that is tested."""
    load_classes()
    registration.model_class.cache_clear()
    yield request.param(monkeypatch)
    registration.model_class.cache_clear()


def config(tokenprune):
    multimodal = SimpleNamespace(mm_processor_kwargs=None if tokenprune is None else {"tokenprune": tokenprune})
    model_config = SimpleNamespace(hf_config=SimpleNamespace(), get_multimodal_config=lambda: multimodal)
    return SimpleNamespace(model_config=model_config)


@pytest.fixture
def log(caplog):
    """The lines of vLLM's log, from a warning on."""
    caplog.set_level(logging.WARNING, "vllm")
    return caplog


def test_a_model_is_vllms_own_and_refuses_the_option(message, monkeypatch, log):
    own = registration.OWN[LLAVA].load_model_cls()
    made = []
    monkeypatch.setattr(own, "__init__", lambda self, *, vllm_config, prefix="": made.append(prefix))
    model_class = registration.model_class(LLAVA)
    assert registration.model_class(LLAVA) is model_class
    (line,) = log.messages
    assert re.fullmatch(f"{message}; {LLAVA} is not pruned", line)
    assert model_class.__mro__[1:] == own.__mro__
    model_class(vllm_config=config(None), prefix="a")
    model_class(vllm_config=config(False))
    assert made == ["a", ""]
    with pytest.raises(ImportError, match=f"^{message}$"):
        model_class(vllm_config=config({"keep_ratio": 0.5}))
    assert len(made) == 2


def test_an_engine_without_the_option_starts_and_one_with_it_does_not(checkpoints, monkeypatch):
    load_classes()
    registration.model_class.cache_clear()
    message = missing(monkeypatch)
    vllm.ModelRegistry.register_model(LLAVA, registration.model_class(LLAVA))
    try:
        request = Request(("a", "I1", "?"))
        with running("llava", checkpoints, None) as engine:
            assert type(engine.model) is registration.model_class(LLAVA)
            assert max(engine.differences([request])) < 1e-4
        with pytest.raises(ImportError, match=message), running("llava", checkpoints, {"keep_ratio": 0.5}):
            pass
    finally:
        registration.model_class.cache_clear()
        load_classes.cache_clear()


def test_a_registry_that_changed_is_left_alone(monkeypatch, log):
    monkeypatch.delattr(type(vllm.ModelRegistry), "register_model")
    registration.register()
    (line,) = log.messages
    assert line.startswith("tokenprune: expected vllm's registry of models, got AttributeError(")
    assert line.endswith("; no model is pruned")
