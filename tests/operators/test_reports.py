"""What public reports say of other selectors, tried here."""

import pytest
import torch

import tokenprune_kernels as tokenprune
from tests.support.inputs import METHODS, gaussian_tokens, random_weight


def weights(method, x):
    return () if method == "divprune" else (random_weight(*x.shape[:-1]),)


@pytest.mark.parametrize("method", METHODS)
def test_every_row_comes_once_though_rows_are_equal_or_mirrored(method):
    """pytorch3d #1486, pytorch_geometric #666, LightVLA #15: repeated indices, first of all 0."""
    half = gaussian_tokens(40, 6)
    for x in (torch.cat([half, -half]), half.repeat(2, 1), torch.ones(80, 6), torch.zeros(80, 6)):
        kept = getattr(tokenprune, method)(x, *weights(method, x), len(x))
        assert kept.sort().values.tolist() == list(range(len(x)))


@pytest.mark.parametrize("method", METHODS)
def test_the_layout_of_the_tokens_does_not_matter(method):
    """fpsample #2: a transposed array starts at another point."""
    x = gaussian_tokens(50, 6)
    expected = getattr(tokenprune, method)(x, *weights(method, x), 20)
    assert torch.equal(getattr(tokenprune, method)(x.T.contiguous().T, *weights(method, x), 20), expected)


@pytest.mark.parametrize("method", METHODS)
def test_more_picks_than_rows_are_refused(method):
    """Kaolin #1000: out of bounds, or a hang."""
    x = gaussian_tokens(5, 6)
    with pytest.raises(ValueError, match=r"expected k to be in \[0, N\] with N = 5, got 6"):
        getattr(tokenprune, method)(x, *weights(method, x), 6)
