"""Engines whose core and ranks have processes of their own, where vLLM finds the classes by name."""

import importlib.util

import pytest

pytest.importorskip("vllm")

from tests.vllm.engine import difference, load_classes, running
from tests.vllm.oracle import expected
from tests.vllm.requests import CLASS_ATTENTION, ENGINE, kinds
from tests.vllm.test_families import CLOSE
from tokenprune_kernels.integrations.vllm import registration

pytestmark = pytest.mark.vllm


@pytest.fixture
def by_name(monkeypatch):
    """The classes as a user's processes find them."""
    monkeypatch.setenv("VLLM_ENABLE_V1_MULTIPROCESSING", "1")
    monkeypatch.setenv("VLLM_CPU_OMP_THREADS_BIND", "nobind")  # or every rank wants memory of its own
    load_classes()
    registration.register()
    yield
    load_classes.cache_clear()


@pytest.mark.usefixtures("by_name")
@pytest.mark.parametrize("family", ["llava", pytest.param("qwen2_5_vl", marks=pytest.mark.slow)])
def test_an_engine_core_in_its_own_process(family, checkpoints):
    with running(family, checkpoints, ENGINE) as engine:
        assert max(engine.differences(kinds(family))) < CLOSE
        assert max(engine.differences(kinds(family)[::-1])) < CLOSE


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("numba") is None, reason="needs numba")
@pytest.mark.usefixtures("by_name")  # where numba is imported, vLLM 0.32 starts no second engine
@pytest.mark.parametrize("family", ["llava", "qwen2_5_vl"])
def test_drafts_of_ngrams(family, checkpoints):
    """Speculative decoding changes no answer."""
    ngrams = {"method": "ngram", "num_speculative_tokens": 3, "prompt_lookup_max": 2, "prompt_lookup_min": 1}
    with running(family, checkpoints, ENGINE, speculative_config=ngrams, disable_log_stats=False) as engine:
        assert max(engine.differences(kinds(family))) < CLOSE
        assert max(engine.differences(kinds(family)[::-1])) < CLOSE
        counted = {metric.name: metric.value for metric in engine.llm.get_metrics() if hasattr(metric, "value")}
        assert counted["vllm:spec_decode_num_draft_tokens"] > 0


@pytest.mark.slow
@pytest.mark.usefixtures("by_name")
@pytest.mark.parametrize("family", ["llava", "qwen2_5_vl"])
def test_two_ranks(family, checkpoints):
    options = {"tensor_parallel_size": 2, "distributed_executor_backend": "mp"}
    requests = kinds(family)
    with running(family, checkpoints, ENGINE, **options) as engine:
        assert max(engine.differences(requests)) < CLOSE


@pytest.mark.slow
@pytest.mark.usefixtures("by_name")
def test_two_ranks_that_share_the_images_among_them(checkpoints):
    options = {"tensor_parallel_size": 2, "distributed_executor_backend": "mp", "mm_encoder_tp_mode": "data"}
    requests = [request for request in kinds("qwen2_5_vl") if request.options != CLASS_ATTENTION]
    with running("qwen2_5_vl", checkpoints, ENGINE, **options) as engine:
        oracles = [expected(engine.family, engine.path, request, engine.arguments(request)) for request in requests]
        assert max(map(difference, engine.answers(requests), oracles)) < CLOSE
