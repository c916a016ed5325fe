"""The selections of an analysis, and what is measured of each."""

import itertools
import math

import pytest
import torch

from tokenprune_kernels import analysis, baselines, metrics
from tokenprune_kernels.analysis import selections

ROWS, COLUMNS = 6, 8
ops = torch.ops.tokenprune


def test_every_selector_is_run_over_its_parameter(samples, measurements):
    first, second = (list(group) for _, group in itertools.groupby(measurements, key=lambda each: each.sample))
    x, weights = samples[0].x, samples[0].importance
    relevance = (weights - weights.min()) / (weights.max() - weights.min() + 1e-6)
    expected = {
        ("DivPrune", None): ops.divprune(x, 9),
        ("top-k importance", None): baselines.top_k(weights, 9),
        ("IDPruner", None): ops.idpruner(x, weights, 9),
        ("random", None): baselines.random(48, 9),
        ("uniform grid", None): baselines.grid(ROWS, COLUMNS, 9),
        **{("MMR", i / 40): ops.mmr(x, relevance, 9, i / 40) for i in range(41)},
        **{("naive mixture", i / 40): baselines.mixture(x, weights, 9, i / 40) for i in range(41)},
        **{("DPP", t): ops.dpp(x, (relevance / t).exp(), 9) for t in selections.TEMPERATURES},
    }
    assert [(each.selector, each.parameter) for each in first] == list(expected)
    for each in first:
        assert torch.equal(each.kept, expected[each.selector, each.parameter])
    # Without a grid there is no uniform one.
    assert len(second) == len(first) - 1


def test_what_is_measured(samples, measurements):
    each = next(each for each in measurements if (each.sample, each.selector, each.parameter) == ("first", "MMR", 0.25))
    x, kept = samples[0].x, each.kept
    dropped = x[[i for i in range(48) if i not in kept.tolist()]]
    assert each.k == 9
    assert each.importance_retention == pytest.approx(float(metrics.importance_retention(samples[0].importance, kept)))
    assert each.hopkins == pytest.approx(float(metrics.hopkins(x[kept])))
    assert each.hopkins_among_tokens == pytest.approx(float(metrics.hopkins(x[kept], within=dropped, draws=256)))
    assert each.smallest_distance == pytest.approx(float(metrics.smallest_distance(x[kept])))
    assert each.mean_distance == pytest.approx(float(metrics.mean_distance(x[kept])))
    mean, worst = metrics.coverage(x, kept)
    assert (each.coverage_mean, each.coverage_worst) == (pytest.approx(float(mean)), pytest.approx(float(worst)))
    assert 0 < each.milliseconds < 1e4


def test_nothing_dropped_has_no_draws(samples):
    step = next(step for step in analysis.steps(samples[0], 48) if step.selector == "DivPrune")
    assert math.isnan(analysis.measure(samples[0], step).hopkins_among_tokens)
