"""Several threads on one model: each picks what it picks alone, and nothing stays on the model."""

import copy
import gc
import sys
from concurrent.futures import ThreadPoolExecutor
from time import monotonic

import pytest
import torch

from tests.support.vision_language import FAMILIES, NO_TEXT, batch, injected, model_of
from tokenprune_kernels.integrations.transformers import enable_pruning, prune_inputs

CLASS = {"method": "idpruner", "importance": "cls_attention", "k": 4}
SECONDS = 1.5


@pytest.fixture
def switching():
    """Threads take turns after every few instructions, for a bounded time."""
    before, threads = sys.getswitchinterval(), torch.get_num_threads()
    sys.setswitchinterval(1e-5)
    torch.set_num_threads(1)
    end = monotonic() + SECONDS
    yield lambda: monotonic() < end
    sys.setswitchinterval(before)
    torch.set_num_threads(threads)


def rows(family):
    image = "i" if family == "llava_next" else "I"
    return [f"tt{image}tt", f"t{image}ttt", f"{image}tttt", f"ttt{image}t{image}"]


@pytest.mark.parametrize("family", ["llava", "llava_next", "internvl"])
def test_class_attention_is_that_of_the_own_call(family, switching):
    model, many = model_of(family), [batch(family, row) for row in rows(family)]
    alone = [injected(prune_inputs(model, inputs, **CLASS)) for inputs in many]
    hooks = {name: len(module._forward_hooks) for name, module in model.named_modules()}
    with ThreadPoolExecutor(4) as pool:
        while switching():
            together = list(pool.map(lambda inputs: injected(prune_inputs(model, inputs, **CLASS)), many))
            assert all(map(torch.equal, together, alone))
    assert {name: len(module._forward_hooks) for name, module in model.named_modules()} == hooks


@torch.no_grad()
def test_class_attention_beside_a_plain_forward_pass(switching):
    model, inputs, other = model_of("llava"), batch("llava", "ttItt"), batch("llava", "tIItt")
    alone = injected(prune_inputs(model, inputs, **CLASS))
    with ThreadPoolExecutor(1) as pool:
        while switching():
            running = [pool.submit(lambda: model(**other)) for _ in range(4)]
            assert torch.equal(injected(prune_inputs(model, inputs, **CLASS)), alone)
            for each in running:
                each.result()


@pytest.mark.parametrize(("family", "options"), [("llava", CLASS), ("qwen3_vl", {"k": 4})])
def test_generate_under_enable_pruning(family, options, switching):
    model, many = model_of(family), [batch(family, row) for row in rows(family)]
    greedy = {"max_new_tokens": 2, "do_sample": False, "suppress_tokens": NO_TEXT}
    with enable_pruning(model, **options), ThreadPoolExecutor(4) as pool:
        alone = [model.generate(**inputs, **greedy) for inputs in many]
        while switching():
            together = list(pool.map(lambda inputs: model.generate(**inputs, **greedy), many))
            assert all(map(torch.equal, together, alone))


def test_one_of_several_threads_enables_pruning(switching):
    model = copy.deepcopy(model_of("llava"))

    def enable(_):
        try:
            return enable_pruning(model, k=4)
        except ValueError:
            return None

    with ThreadPoolExecutor(4) as pool:
        while switching():
            handles = [handle for handle in pool.map(enable, range(8)) if handle is not None]
            assert len(handles) == 1
            list(pool.map(lambda handle: handle.remove(), handles * 4))
            assert "generate" not in vars(model)
            assert not model._forward_pre_hooks


@pytest.mark.parametrize("family", FAMILIES)
def test_prune_inputs_leaves_nothing_on_the_model(family):
    """Not after an error half-way either."""
    model, inputs = model_of(family), batch(family, "ttItt")
    prune_inputs(model, inputs, k=4)  # transformers installs hooks of its own at the first run of an encoder

    def state():
        return {
            name: {key: dict(value) if isinstance(value, dict) else id(value) for key, value in vars(module).items()}
            for name, module in model.named_modules()
        }

    def failing(tokens):
        raise ArithmeticError

    before = state()
    prune_inputs(model, inputs, k=4)
    with pytest.raises(ArithmeticError):
        prune_inputs(model, inputs, k=4, method="idpruner", importance=failing)
    gc.collect()
    assert state() == before


def test_pruning_within_pruning():
    model, inputs, other = model_of("llava"), batch("llava", "ttItt"), batch("llava", "tIttt")
    inner = []

    def importance(tokens):
        inner.append(injected(prune_inputs(model, other, **CLASS)))
        return tokens.norm(dim=-1)

    outer = prune_inputs(model, inputs, method="idpruner", importance=importance, k=4)
    assert torch.equal(
        injected(outer), injected(prune_inputs(model, inputs, method="idpruner", importance="norm", k=4))
    )
    assert torch.equal(inner[0], injected(prune_inputs(model, other, **CLASS)))


@pytest.mark.parametrize("family", ["llava", "qwen3_vl"])
def test_an_offloaded_model(family, switching):
    """accelerate's hooks take a module's parameters away while another thread still uses them."""
    accelerate = pytest.importorskip("accelerate", reason="needs accelerate")
    model, many = copy.deepcopy(model_of(family)), [batch(family, row) for row in rows(family)]
    accelerate.cpu_offload(model, execution_device=torch.device("cpu"))
    greedy = {"max_new_tokens": 2, "do_sample": False, "suppress_tokens": NO_TEXT}
    alone = [injected(prune_inputs(model_of(family), inputs, k=4)) for inputs in many]
    with enable_pruning(other := model_of(family), k=4):
        answers = [other.generate(**inputs, **greedy) for inputs in many]
    with ThreadPoolExecutor(4) as pool:
        while switching():
            together = list(pool.map(lambda inputs: injected(prune_inputs(model, inputs, k=4)), many))
            assert all(map(torch.equal, together, alone))
            with enable_pruning(model, k=4):
                together = list(pool.map(lambda inputs: model.generate(**inputs, **greedy), many))
            assert all(map(torch.equal, together, answers))
    assert all(parameter.is_meta for parameter in model.parameters())
