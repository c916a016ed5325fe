"""Every selector on a sample, over its parameter where it has one, and the measures of each selection."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter

import torch
from torch import Tensor

from .. import baselines, metrics
from ..selectors import divprune, dpp, idpruner, mmr
from .samples import Sample

LAMS = tuple(i / 40 for i in range(41))
SHARES = LAMS
# exp(relevance / T) as the DPP's quality: Chen et al., NeurIPS 2018, section 5, with 1 / T = theta / (2 (1 - theta)).
TEMPERATURES = (math.inf, 8.0, 4.0, 2.0, 1.4, 1.0, 0.8, 0.6, 0.5, 0.4, 0.3, 0.25, 0.2, 0.15, 0.1)

MMR, MIXTURE, DPP = "MMR", "naive mixture", "DPP"
DIVPRUNE, TOP_K, IDPRUNER, GRID, RANDOM = "DivPrune", "top-k importance", "IDPruner", "uniform grid", "random"
CURVES = {MMR: "lambda", MIXTURE: "share", DPP: "temperature"}
SHOWN = (DIVPRUNE, TOP_K, IDPRUNER, DPP)
SHOWN_TEMPERATURE = 1.0
DRAWS = 256


@dataclass(frozen=True)
class Step:
    """A selector with the value of its parameter, ready to run."""

    selector: str
    parameter: float | None
    select: Callable[[], Tensor]


@dataclass(frozen=True)
class Measurement:
    """One selection of one sample and its measures, as in the CSV file.

    Attributes:
        parameter: lambda, the share or the temperature; None for a selector without one.
        k: how many tokens were kept.
        importance_retention: see ``metrics.importance_retention``.
        hopkins: the Hopkins statistic of the kept tokens against uniform directions.
        hopkins_among_tokens: the same against 256 draws among the dropped tokens; NaN where there are none.
        smallest_distance: the smallest cosine distance between two kept tokens.
        mean_distance: the mean of these distances.
        coverage_mean: the mean distance of a dropped token to the nearest kept one.
        coverage_worst: the largest of these distances.
        milliseconds: the time of the selection, one call.
        kept: the indices, in the order of selection.
    """

    sample: str
    selector: str
    parameter: float | None
    k: int
    importance_retention: float
    hopkins: float
    hopkins_among_tokens: float
    smallest_distance: float
    mean_distance: float
    coverage_mean: float
    coverage_worst: float
    milliseconds: float
    kept: Tensor


def steps(sample: Sample, k: int) -> list[Step]:
    """Returns the selections to run on a sample: those without a parameter, then the curves over one."""
    x, weights, count = sample.x, sample.importance, len(sample.x)
    span = weights.max() - weights.min()
    relevance = (weights - weights.min()) / (span + 1e-6)

    def quality(temperature: float) -> Tensor:
        return (relevance / temperature).exp()

    points = [
        Step(DIVPRUNE, None, lambda: divprune(x, k)),
        Step(TOP_K, None, lambda: baselines.top_k(weights, k)),
        Step(IDPRUNER, None, lambda: idpruner(x, weights, k)),
        Step(RANDOM, None, lambda: baselines.random(count, k)),
    ]
    if sample.grid is not None:
        rows, columns = sample.grid
        points.append(Step(GRID, None, lambda: baselines.grid(rows, columns, k)))
    return [
        *points,
        *(Step(MMR, lam, lambda lam=lam: mmr(x, relevance, k, lam=lam)) for lam in LAMS),  # type: ignore[misc]
        *(
            Step(MIXTURE, share, lambda share=share: baselines.mixture(x, weights, k, share))  # type: ignore[misc]
            for share in SHARES
        ),
        *(Step(DPP, t, lambda t=t: dpp(x, quality(t), k)) for t in TEMPERATURES),  # type: ignore[misc]
    ]


def measure(sample: Sample, step: Step) -> Measurement:
    """Runs a step and measures its selection of at least 2 tokens."""
    start = perf_counter()
    kept = step.select()
    elapsed = perf_counter() - start
    tokens = sample.x64[kept]
    dropped = torch.ones(len(sample.x), dtype=torch.bool).index_fill(0, kept, False)
    mean, worst = metrics.coverage(sample.x64, kept)
    return Measurement(
        sample.name,
        step.selector,
        step.parameter,
        len(kept),
        float(metrics.importance_retention(sample.importance, kept)),
        float(metrics.hopkins(tokens)),
        float(metrics.hopkins(tokens, within=sample.x64[dropped], draws=DRAWS)) if dropped.any() else math.nan,
        float(metrics.smallest_distance(tokens)),
        float(metrics.mean_distance(tokens)),
        float(mean),
        float(worst),
        1e3 * elapsed,
        kept,
    )


def shown(measurements: list[Measurement], sample: str, selector: str) -> Measurement:
    """Returns the selection of a selector that figures show: its only one, or that at temperature 1."""
    parameter = SHOWN_TEMPERATURE if selector == DPP else None
    return next(
        each for each in measurements if (each.sample, each.selector, each.parameter) == (sample, selector, parameter)
    )
