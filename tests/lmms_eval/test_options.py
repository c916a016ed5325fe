"""The arguments of the model of lmms-eval; lmms-eval need not be installed."""

import pytest
import torch

from tests.support.vision_language import batch, model_of
from tokenprune_kernels.integrations.lmms_eval.options import RandomImportance, downsampled_size, pruning_options
from tokenprune_kernels.integrations.transformers import prune_inputs


def options(method, **given):
    names = ("k", "keep_ratio", "importance", "relevance", "lam", "positions")
    return pruning_options(method, *(given.get(name) for name in names), given.get("seed", 0))


def test_what_is_not_given_is_left_to_the_integration():
    assert options("divprune", keep_ratio=0.1) == {"method": "divprune", "keep_ratio": 0.1}
    assert options("mmr", k=5, relevance="text", lam=0.7) == {"method": "mmr", "k": 5, "relevance": "text", "lam": 0.7}
    assert options("none") is None
    assert options("downsample", keep_ratio=0.5) is None


@pytest.mark.parametrize(
    ("method", "given", "message"),
    [
        (
            "divprun",
            {},
            "tokenprune: expected method to be one of divprune, mmr, idpruner, dpp, none, random, downsample",
        ),
        ("none", {"keep_ratio": 0.5}, "tokenprune: expected no keep_ratio with method 'none', got 0.5"),
        ("random", {"k": 5, "importance": "norm"}, "tokenprune: expected no importance with method 'random', got norm"),
        ("downsample", {"k": 5}, "tokenprune: expected no k with method 'downsample', got 5"),
    ],
)
def test_what_does_not_fit_is_named(method, given, message):
    with pytest.raises(ValueError, match=message):
        options(method, **given)


def test_a_random_choice_is_one_of_the_seed():
    inputs = batch("llava", "tIt")
    kept = [
        prune_inputs(model_of("llava"), inputs, **options("random", k=5, seed=seed)).kept_indices[0]
        for seed in (0, 0, 1)
    ]
    assert torch.equal(kept[0], kept[1])
    assert not torch.equal(kept[0], kept[2])
    expected = RandomImportance(0)(torch.zeros(16, 2)).topk(5).indices.sort().values
    assert torch.equal(kept[0], expected)


def test_a_downsampled_picture_has_the_share_of_the_pixels():
    assert downsampled_size(400, 200, 0.25) == (200, 100)
    assert downsampled_size(3, 1, 0.1) == (1, 1)
    for share in (None, 0, 1.5):
        with pytest.raises(ValueError, match=r"expected keep_ratio in \(0, 1\] with method 'downsample'"):
            downsampled_size(400, 200, share)
