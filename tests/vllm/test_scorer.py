"""The learned scorer of VisionSelector in an engine, and in transformers with `prune_inputs`."""

import pytest
import torch

pytest.importorskip("vllm")

from safetensors.torch import save_file

from tests.vllm.engine import running
from tests.vllm.media import Request
from tests.vllm.test_families import CLOSE
from tests.vllm.tiny import FAMILIES
from tokenprune_kernels.vision_selector import VisionSelectorScorer

pytestmark = pytest.mark.vllm
FAST = ("llava", "qwen3_vl")
PREFIX = "importance_scorer."


@pytest.mark.parametrize(
    "family", [name if name in FAST else pytest.param(name, marks=pytest.mark.slow) for name in FAMILIES]
)
def test_the_scorer_in_an_engine(family, checkpoints, tmp_path):
    torch.manual_seed(0)
    scorer = VisionSelectorScorer(64, 16).requires_grad_(False)
    save_file({PREFIX + name: value for name, value in scorer.state_dict().items()}, tmp_path / "scorer.safetensors")
    method = {"method": "idpruner", "importance": "vision_selector", "lam": 0.8, "keep_ratio": 0.3}
    files = {"scorer": str(tmp_path / "scorer.safetensors"), "scorer_prefix": PREFIX}
    of = FAMILIES[family]
    requests = [
        Request((*parts, "?"), options)
        for letter in of.placeholders
        for parts in (("a", f"{letter}1"), ("a", f"{letter}2", "and", f"{letter}5")[: 2 * of.most])
        # The second has the method of the engine, and the third replaces it.
        for options in (None, {"k": 7}, {"method": "divprune"}, {"method": "mmr", "relevance": "vision_selector"})
    ]
    with running(family, checkpoints, {**method, **files}) as engine:
        engine.objects = {"vision_selector": scorer}
        assert max(engine.differences(requests)) < CLOSE
        # A negative control: with another scorer, transformers selects otherwise.
        torch.manual_seed(1)  # vLLM seeds too, and may have set the state that made the first one
        engine.objects = {"vision_selector": VisionSelectorScorer(64, 16).requires_grad_(False)}
        assert max(engine.differences(requests[:1])) > CLOSE
