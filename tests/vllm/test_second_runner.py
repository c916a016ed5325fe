"""vLLM's second model runner, the default on GPUs: what it does with the rows, and how it answers when interpreted."""

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

pytest.importorskip("vllm")

import torch

from tests.vllm.drafters import READS_IMAGES
from tests.vllm.engine import MEASURED
from tests.vllm.test_families import CLOSE
from tokenprune_kernels.integrations.vllm.digits import encoded
from tokenprune_kernels.integrations.vllm.engine import ENABLES_POSITIONS
from tokenprune_kernels.integrations.vllm.mrope import COLUMNS, SpatialPositions

pruning = pytest.importorskip("vllm.v1.worker.gpu.model_states.mm_pruning")

pytestmark = pytest.mark.vllm
WIDTH, IMAGE, LENGTH = 8, 7, 12
TRITON = Path(__file__).parents[2] / "build/vllm-triton"  # apart: where vLLM finds it, it takes the second runner
PLACE = 3  # of the image's four rows in the prompt
POSITIONS = torch.tensor([[0, 0, 2], [0, 1, 1], [0, 3, 0], [0, 3, 3]])


class Model(SpatialPositions):
    """The positions of a model, without its layers."""

    def __init__(self):
        self.prunes = True
        self.config = SimpleNamespace(image_token_id=IMAGE, video_token_id=-1)
        self.supports_multimodal_pruning = True


def rows():
    numbers = torch.cat([POSITIONS, torch.arange(4).unsqueeze(1), torch.full((4, 1), 4)], dim=1)
    return torch.cat([torch.randn(4, WIDTH, dtype=torch.bfloat16), encoded(numbers, torch.bfloat16)], dim=1)


def config(rate):
    multimodal = SimpleNamespace(video_pruning_rate=rate, is_multimodal_pruning_enabled=lambda: bool(rate))
    return SimpleNamespace(multimodal_config=multimodal, get_inputs_embeds_size=lambda: WIDTH)


class Rope:
    """The positions of one request."""

    def __init__(self):
        self.positions = torch.arange(LENGTH).expand(3, -1).clone()
        self.delta = None

    def read_prefill_positions(self, request, length):
        return self.positions[:, :length]

    def update_prefill_positions(self, request, positions, delta):
        self.positions, self.delta = positions, delta


def pruner(rope):
    from vllm.multimodal.inputs import PlaceholderRange

    feature = SimpleNamespace(mm_position=PlaceholderRange(offset=PLACE, length=4))
    cache = SimpleNamespace(mm_features={"request": [feature]})
    return pruning.maybe_create_mm_pruner(config(ENABLES_POSITIONS), Model(), rope, cache)


def test_it_asks_a_pruned_model_alone():
    assert isinstance(pruner(Rope()), pruning.MultiModalPruner)
    assert pruning.maybe_create_mm_pruner(config(None), Model(), Rope(), object()) is None


@pytest.mark.parametrize(("start", "end"), [(0, LENGTH), (0, 5), (5, LENGTH)])
def test_positions_go_where_the_rows_go(start, end):
    """A whole prompt, and the two parts of an image that a chunk cuts."""
    rope = Rope()
    before = rope.positions.clone()
    given = rows()[max(start - PLACE, 0) : end - PLACE]
    tokens = torch.tensor([1, 1, 1, *[IMAGE] * 4, *[1] * 5])
    batch = SimpleNamespace(
        req_ids=["request"],
        idx_mapping_np=torch.tensor([0]).numpy(),
        prefill_len_np=torch.tensor([LENGTH]).numpy(),
        num_computed_prefill_tokens_np=torch.tensor([start]).numpy(),
        num_scheduled_tokens=torch.tensor([end - start]).numpy(),
    )
    requests = SimpleNamespace(all_token_ids=SimpleNamespace(gpu=tokens.unsqueeze(0)))
    (kept,) = pruner(rope).recompute([given], batch, requests)
    assert torch.equal(kept, given[:, :WIDTH])
    expected = before.clone()
    placed = range(max(start, PLACE), min(end, PLACE + 4))
    for place in placed:
        expected[:, place] = POSITIONS[place - PLACE] + PLACE
    assert torch.equal(rope.positions, expected)
    assert rope.delta == 0


def test_rows_without_a_place_are_an_error():
    positions = torch.arange(LENGTH).expand(3, -1)
    tokens = [1, 1, 1, *[IMAGE] * 4, *[1] * 5]
    with pytest.raises(
        RuntimeError, match="expected a place of 4 tokens in the prompt for rows from token 5 on, got none"
    ):
        Model().recompute_mrope_positions(tokens, [rows()], positions, 5)


def test_a_drafter_gets_rows_without_columns():
    given = rows()
    (kept,) = pruner(Rope()).strip([given])
    assert given.shape[1] == WIDTH + COLUMNS
    assert torch.equal(kept, given[:, :WIDTH])


@pytest.mark.slow
@pytest.mark.skipif(not TRITON.is_dir(), reason="needs Triton, which `make test-vllm-all` installs")
@pytest.mark.parametrize(("family", "drafter"), [("llava", ""), ("qwen2_5_vl", READS_IMAGES), ("qwen3_vl", "")])
def test_it_answers_like_transformers_in_the_interpreter_of_triton(family, drafter, tmp_path):
    command = [sys.executable, "-m", "tests.vllm.second_runner", family, str(tmp_path), str(TRITON), drafter]
    answered = subprocess.run(command, capture_output=True, text=True)
    assert answered.returncode == 0, answered.stderr[-3000:]
    MEASURED.extend(json.loads(answered.stdout.splitlines()[-1]))
    assert max(MEASURED) < CLOSE
