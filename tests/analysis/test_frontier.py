"""How two trade-offs compare."""

import pytest
import torch

from tests.support.inputs import generator
from tokenprune_kernels import analysis
from tokenprune_kernels.analysis import frontier

np = pytest.importorskip("numpy")


CROSSING = [(0.2, 0.3), (0.6, 0.5), (1.0, 0.9)], [(0.1, 0.35), (0.5, 0.4), (1.0, 0.95)]


def test_only_what_nothing_else_beats_is_on_the_frontier():
    points = [(0.5, 0.5), (0.4, 0.5), (0.5, 0.6), (0.9, 0.8), (0.7, 0.9), (0.9, 0.8), (0.2, 0.1)]
    assert frontier.frontier(points) == [(0.2, 0.1), (0.5, 0.5), (0.9, 0.8)]


@pytest.mark.parametrize("seed", range(6))
def test_areas_are_those_of_a_fine_sum(seed):
    first, second = (
        [tuple(point) for point in torch.rand(8, 2, generator=generator(10 * seed + i)).double().tolist()]
        for i in range(2)
    )
    against = analysis.compare(first, second)
    first, second = frontier.frontier(first), frontier.frontier(second)
    assert against.start == min(first[0][0], second[0][0])
    assert against.end == min(first[-1][0], second[-1][0])
    places = [against.start + (against.end - against.start) * (i + 0.5) / 20_000 for i in range(20_000)]
    gains = [
        np.interp(place, *zip(*second, strict=True)) - np.interp(place, *zip(*first, strict=True)) for place in places
    ]
    assert against.mean == pytest.approx(sum(gains) / len(gains), abs=1e-4)
    assert against.area == pytest.approx(against.mean * (against.end - against.start))
    assert against.lower == pytest.approx(sum(gain > 0 for gain in gains) / len(gains), abs=1e-3)
    assert against.higher == pytest.approx(sum(gain < 0 for gain in gains) / len(gains), abs=1e-3)


def test_a_comparison_by_hand():
    against = analysis.compare([(0.0, 0.0), (1.0, 1.0)], [(0.0, 0.5), (1.0, 1.0)])
    assert (against.start, against.end, against.lower, against.higher) == (0.0, 1.0, 1.0, 0.0)
    assert against.area == pytest.approx(0.25)
    assert analysis.compare(*CROSSING).area == pytest.approx(-analysis.compare(*CROSSING[::-1]).area)
    assert analysis.compare(*CROSSING).lower == pytest.approx(analysis.compare(*CROSSING[::-1]).higher)
    same = analysis.compare(CROSSING[0], CROSSING[0])
    assert (same.area, same.lower, same.higher) == (0.0, 0.0, 0.0)
    point = analysis.compare([(0.5, 0.2)], [(0.5, 0.7)])
    assert (point.area, point.mean, point.lower) == (0.0, pytest.approx(0.5), 0.0)
    apart = analysis.compare([(0.2, 0.1)], [(0.8, 0.7)])
    assert (apart.start, apart.end) == (0.2, 0.2)
