"""vLLM with pruning says what transformers says with `prune_inputs`, for every family."""

import pytest

pytest.importorskip("vllm")

from vllm.exceptions import VLLMValidationError

from tests.vllm.engine import running
from tests.vllm.media import Request
from tests.vllm.requests import ENGINE, batches, kinds, mixes
from tests.vllm.tiny import FAMILIES
from tokenprune_kernels.integrations.vllm import mrope

pytestmark = pytest.mark.vllm
CLOSE = 1e-4  # of log-probabilities in float32; other positions or other tokens differ by 0.1 and more


@pytest.fixture(scope="module", params=FAMILIES)
def engine(request, checkpoints):
    with running(request.param, checkpoints, ENGINE) as engine:
        yield engine


def test_every_kind_of_request(engine):
    requests = kinds(engine.family)
    assert max(engine.differences(requests)) < CLOSE
    # Again in another order, with blocks of the prefix cache.
    assert max(engine.differences(requests[::-1])) < CLOSE


def test_random_requests(engine):
    assert max(engine.differences(mixes(engine.family, 10, seed=10))) < CLOSE


@pytest.mark.slow
def test_random_mixes(engine):
    """23 for each of nine families: more than 200. Blocks and images of earlier mixes are in the caches."""
    for number, batch in enumerate(batches(engine.family, 23, seed=0)):
        assert max(engine.differences(batch)) < CLOSE, f"mix {number}: {batch}"


def test_positions_matter(engine, monkeypatch):
    """A negative control: without the positions that rows carry, the answers are others."""
    if not FAMILIES[engine.family].mrope:
        pytest.skip("has no positions of its own")
    request = Request(("a", "I1", "on", "I2", "mat", "?"), {"keep_ratio": 0.4})
    assert max(engine.differences([request])) < CLOSE
    engine.llm.reset_prefix_cache()

    def forgotten(self, input_ids, multimodal_embeddings, mrope_positions, num_computed_tokens):
        rows = [each[:, : -mrope.COLUMNS] for each in multimodal_embeddings]
        return rows, mrope_positions, self._delta(mrope_positions)

    monkeypatch.setattr(mrope.SpatialPositions, "recompute_mrope_positions", forgotten)
    assert max(engine.differences([request])) > 0.05
    engine.llm.reset_prefix_cache()


def test_errors_are_those_of_a_request(engine):
    letter = next(iter(FAMILIES[engine.family].placeholders))
    right, wrong = Request(("a", f"{letter}1", "?")), Request(("a", f"{letter}1", "?"), {"keep_ratio": 2})
    with pytest.raises(VLLMValidationError, match=r"expected keep_ratio to be in \(0, 1\], got 2"):
        engine.answers([wrong])
    assert max(engine.differences([right])) < CLOSE
