"""Samples and their measurements, and a picture file."""

import pytest

from tests.support.inputs import gaussian_tokens, random_weight
from tokenprune_kernels import analysis
from tokenprune_kernels.analysis.samples import Sample

ROWS, COLUMNS = 6, 8


@pytest.fixture
def picture(tmp_path):
    """The path of a picture of 48 whole patches."""
    np, images = pytest.importorskip("numpy"), pytest.importorskip("PIL.Image")
    path = tmp_path / "picture.png"
    pixels = np.random.default_rng(0).integers(0, 256, (ROWS * 14 + 3, COLUMNS * 14 + 5, 3), dtype=np.uint8)
    images.fromarray(pixels).save(path)
    return str(path)


@pytest.fixture(scope="session")
def samples():
    images = pytest.importorskip("PIL.Image")
    x = gaussian_tokens(48, 24) + 1
    blank = images.new("RGB", (14 * COLUMNS, 14 * ROWS))
    return [
        Sample("first", x, random_weight(48), "norm", (ROWS, COLUMNS), blank),
        Sample("second", x.flip(0).bfloat16(), random_weight(48, seed=1), "class attention"),
    ]


@pytest.fixture(scope="session")
def measurements(samples):
    return [analysis.measure(sample, step) for sample in samples for step in analysis.steps(sample, 9)]
