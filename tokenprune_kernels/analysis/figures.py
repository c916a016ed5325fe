"""The three figures: the trade-off, the kept patches, and the pairwise angles.

Lines differ by dash, marks by shape and colours by lightness, so that a print without colours shows the difference.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from .. import metrics
from . import pictures
from .samples import Sample
from .selections import (
    CURVES,
    DIVPRUNE,
    DPP,
    GRID,
    IDPRUNER,
    MIXTURE,
    MMR,
    RANDOM,
    SHOWN,
    TOP_K,
    Measurement,
    shown,
)

_DPI = 150
_COLUMNS = 3
_BINS = 45
# A file's name may hold dollar signs, which would begin a formula.
_NAMED: dict[str, Any] = {"fontsize": 11, "parse_math": False}


@dataclass(frozen=True)
class _Style:
    """The style of a selector's line or mark."""

    colour: str
    dashes: str = "-"
    mark: str = "o"


_CURVE_STYLES = {
    MMR: _Style("#000000", "-", "o"),
    MIXTURE: _Style("#2a6fb0", "--", "s"),
    DPP: _Style("#f0922b", "-.", "^"),
}
_POINT_STYLES = {
    DIVPRUNE: _Style("#ffffff", mark="D"),
    TOP_K: _Style("#7a1f5c", mark="P"),
    IDPRUNER: _Style("#ffe14d", mark="*"),
    RANDOM: _Style("#9a9a9a", mark="X"),
    GRID: _Style("#cfe8cf", mark="h"),
}
_ANGLE_STYLES = {
    DIVPRUNE: _Style("#2a6fb0", "--"),
    TOP_K: _Style("#7a1f5c", ":"),
    IDPRUNER: _Style("#000000", "-"),
    DPP: _Style("#f0922b", "-."),
}


def pareto(samples: Sequence[Sample], measurements: list[Measurement]) -> Any:
    """Plots the Hopkins statistic over importance retention: a curve for each parameter, a point for each selector."""
    figure, axes = _panels(len(samples), 4.6, 3.9)
    for sample, panel in zip(samples, axes, strict=False):
        mine = [each for each in measurements if each.sample == sample.name]
        for selector, style in _CURVE_STYLES.items():
            points = [(each.importance_retention, each.hopkins) for each in mine if each.selector == selector]
            label = f"{selector}, over {CURVES[selector]}"
            line = {"color": style.colour, "marker": style.mark, "ms": 3.5, "label": label}
            panel.plot(*zip(*points, strict=True), style.dashes, **line)
        for selector, style in _POINT_STYLES.items():
            for each in (each for each in mine if each.selector == selector):
                panel.plot(
                    each.importance_retention,
                    each.hopkins,
                    style.mark,
                    color=style.colour,
                    markeredgecolor="black",
                    ms=15 if style.mark == "*" else 9,
                    label=selector,
                    zorder=3,
                )
        panel.set_title(f"{sample.name}: {mine[0].k:,} of {len(sample.x):,} tokens", **_NAMED)
        panel.set_xlabel(f"importance retention ({sample.weighed_by}), more is better")
        panel.set_ylabel("Hopkins statistic, less is more diverse")
        panel.grid(alpha=0.3)
    _legend_below(figure, axes)
    return figure


def kept_patches(samples: Sequence[Sample], measurements: list[Measurement]) -> Any:
    """Draws what four selectors keep of each picture. Returns None where no sample has a picture."""
    drawn = [sample for sample in samples if sample.picture is not None]
    if not drawn:
        return None
    heights = [sample.picture.height / sample.picture.width for sample in drawn if sample.picture is not None]
    width = 3.4
    figure = _matplotlib("figure").Figure(
        figsize=(width * len(SHOWN), width * sum(heights) + 0.5), layout="constrained"
    )
    axes = figure.subplots(len(drawn), len(SHOWN), squeeze=False, gridspec_kw={"height_ratios": heights})
    for line, sample in zip(axes, drawn, strict=True):
        for panel, selector in zip(line, SHOWN, strict=True):
            chosen = shown(measurements, sample.name, selector)
            panel.imshow(pictures.draw_kept(sample.picture, chosen.kept))  # type: ignore[arg-type]
            panel.set_xticks([])
            panel.set_yticks([])
        line[0].set_ylabel(f"{sample.name}, {chosen.k:,} of {len(sample.x):,}", **_NAMED)
    for panel, selector in zip(axes[0], SHOWN, strict=True):
        panel.set_title(_with_parameter(shown(measurements, drawn[0].name, selector)), fontsize=13)
    return figure


def pairwise_angles(samples: Sequence[Sample], measurements: list[Measurement]) -> Any:
    """Plots the distribution of the angles between kept tokens, over that of all tokens."""
    figure, axes = _panels(len(samples), 4.6, 3.4)
    degrees = [180 / _BINS * (i + 0.5) for i in range(_BINS)]
    for sample, panel in zip(samples, axes, strict=False):
        everything = _shares(metrics.angle_histogram(sample.x, _BINS))
        panel.fill_between(degrees, everything, color="#dcdcdc", label="all tokens")
        last, highest = max(i for i, share in enumerate(everything) if share), max(everything)
        for selector, style in _ANGLE_STYLES.items():
            chosen = shown(measurements, sample.name, selector)
            shares = _shares(metrics.angle_histogram(sample.x[chosen.kept], _BINS))
            label = _with_parameter(chosen)
            panel.plot(degrees, shares, style.dashes, color=style.colour, lw=1.8, label=label)
            last, highest = max([last, *(i for i, share in enumerate(shares) if share)]), max(highest, *shares)
        panel.set_title(f"{sample.name}: {chosen.k:,} of {len(sample.x):,} tokens", **_NAMED)
        panel.set_xlabel("angle between two tokens, degrees")
        panel.set_ylabel(f"% of pairs in {180 / _BINS:g} degrees, root scale")
        # Pairs of nearly equal tokens would flatten everything else.
        panel.set_yscale("function", functions=(_root, _square))
        panel.set_xlim(0, min(180.0, 180 / _BINS * (last + 3)))
        panel.set_ylim(0, 1.05 * highest)
        ticks = [tick for tick in (0, 0.5, 2, 5, 10, 20, 40, 60, 80) if tick <= 1.05 * highest]
        panel.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
        panel.grid(alpha=0.3)
    _legend_below(figure, axes)
    return figure


def _with_parameter(each: Measurement) -> str:
    if each.parameter is None:
        return each.selector
    return f"{each.selector} at {CURVES[each.selector]} {each.parameter:g}"


def _root(values: Any) -> Any:
    return abs(values) ** 0.5


def _square(values: Any) -> Any:
    return values**2


def _shares(counts: Tensor) -> list[float]:
    """Percentages of all pairs."""
    total = max(1, int(counts.sum()))
    return [100 * count / total for count in counts.tolist()]


def _panels(count: int, width: float, height: float) -> tuple[Any, list[Any]]:
    columns = min(count, _COLUMNS)
    lines = math.ceil(count / columns)
    size = (max(width * columns, 7.0), height * lines + 0.9)
    figure = _matplotlib("figure").Figure(figsize=size, layout="constrained")
    axes = list(figure.subplots(lines, columns, squeeze=False).flat)
    for panel in axes[count:]:
        panel.set_axis_off()
    return figure, axes


def _legend_below(figure: Any, axes: list[Any]) -> None:
    """Draws one legend for all panels."""
    entries: dict[str, Any] = {}
    for panel in axes:
        for handle, label in zip(*panel.get_legend_handles_labels(), strict=True):
            entries.setdefault(label, handle)
    columns = 3 if figure.get_figwidth() < 9 else 5
    figure.legend(
        entries.values(), entries.keys(), loc="outside lower center", ncols=columns, frameon=False, fontsize=9
    )


def save(figure: Any, path: str) -> None:
    """Writes a figure as PNG."""
    figure.savefig(path, dpi=_DPI, format="png")


def check_matplotlib() -> None:
    """Raises ImportError, with what to install, unless figures can be drawn."""
    _matplotlib("figure")


def _matplotlib(module: str) -> Any:
    try:
        return importlib.import_module(f"matplotlib.{module}")
    except ImportError as error:
        raise ImportError(
            f"analyse: expected matplotlib to be installed (pip install 'tokenprune_kernels[analyse]'), got {error}"
        ) from error
