import pytest

from tokenprune_kernels.metrics import prefill_flops

LLAVA_1_5_7B = {"d": 4096, "m": 11008, "layers": 32}


def test_operations_are_those_of_projections_attention_and_feed_forward():
    assert prefill_flops(n=2, d=3, m=5, layers=7) == 7 * (4 * 2 * 3 * 3 + 2 * 2 * 2 * 3 + 2 * 2 * 3 * 5)
    assert prefill_flops(n=576, **LLAVA_1_5_7B) == 2_986_076_012_544
    assert prefill_flops(0, 3, 5, 7) == prefill_flops(2, 3, 5, 0) == 0


def test_dropping_tokens_saves_more_than_their_share():
    whole, pruned = (prefill_flops(n, **LLAVA_1_5_7B) for n in (1_000, 100))
    assert 0 < pruned < whole / 10


@pytest.mark.parametrize("name", ["n", "d", "m", "layers"])
def test_negative_sizes_are_an_error(name):
    sizes = {"n": 2, "d": 3, "m": 5, "layers": 7} | {name: -1}
    with pytest.raises(ValueError, match=f"prefill_flops: expected {name} to be at least 0, got -1"):
        prefill_flops(**sizes)
