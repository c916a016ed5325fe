"""MMR's trade-off of importance and diversity against the naive mixture's and the DPP's, on pictures and on features.

``python -m bench analysis`` writes bench/results/analysis.json, the two figures beside it, and the table of
docs/benchmarks.md. The features are those of the trained tower of ``bench.accuracy``, at three sizes. Nothing here is
timed, so that it may run beside other work.
"""

from __future__ import annotations

import dataclasses
import platform
import tempfile
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import safetensors.torch
import skimage
import torch
from PIL import ImageOps

from bench import analysis_table, files, render
from bench.accuracy import tower
from bench.accuracy.settings import FULL
from tokenprune_kernels import analysis
from tokenprune_kernels.analysis import figures, report
from tokenprune_kernels.analysis.pictures import open_picture
from tokenprune_kernels.analysis.progress import Progress
from tokenprune_kernels.analysis.selections import DPP, SHOWN, shown
from tokenprune_kernels.calls import kept_count

PICTURES = ("astronaut.png", "chelsea.png", "coffee.png", "motorcycle_left.png", "rocket.jpg")
EMBEDDED = PICTURES[:3]
KEEP_RATIOS = (0.1, 0.25)
FIGURE, ANGLES = "analysis.png", "analysis-angles.png"

SIDES = (224, 336, 518)
"""Of the pictures that the trained tower sees: 256, 576 and 1,369 tokens."""
SHOWN_SIDE = 336
"""Of those in the figures."""
SETTINGS = FULL


def name_of(path: str, side: int) -> str:
    """The name of a photograph's tokens by the tower."""
    return f"{Path(path).stem}, tower at {side}"


@torch.no_grad()
def samples(directory: Path) -> list[analysis.Sample]:
    """The patches of the photographs, then the trained tower's tokens of some, as saved features."""
    paths = [str(Path(skimage.data_dir) / name) for name in PICTURES]
    model = tower.tower(SETTINGS)
    made = [analysis.from_picture(path) for path in paths]
    for side in SIDES:
        shown = paths[: len(EMBEDDED)]
        pixels = tower.pixel_values([ImageOps.fit(open_picture(path), (side, side)) for path in shown])
        before, after = tower.hidden_states(model, pixels, (-3, -2)).unbind(1)
        saved = {
            "features": after[:, 1:].bfloat16(),
            "importance": tower.class_attention(model, before),
            "grid": torch.tensor([side // tower.PATCH] * 2),
        }
        file = directory / f"{side}.safetensors"
        safetensors.torch.save_file({name: each.contiguous() for name, each in saved.items()}, file)
        made += analysis.from_features(file, shown, [name_of(path, side) for path in shown])
    return made


def run(given: list[analysis.Sample], keep_ratio: float) -> list[analysis.Measurement]:
    """Every selection of every sample."""
    plans = [
        (sample, step)
        for sample in given
        for step in analysis.steps(sample, kept_count("bench", len(sample.x), keep_ratio))
    ]
    measurements = []
    with Progress(len(plans)) as progress:
        for sample, step in plans:
            progress.step(f"{keep_ratio:g} of {sample.name}: {step.selector}")
            measurements.append(analysis.measure(sample, step))
    return measurements


def row(sample: analysis.Sample, measurements: list[analysis.Measurement], keep_ratio: float) -> dict[str, Any]:
    """A line of the result."""
    points = {selector: shown(measurements, sample.name, selector) for selector in SHOWN}
    return {
        "sample": sample.name,
        "tokens": len(sample.x),
        "dimensions": sample.x.shape[-1],
        "keep_ratio": keep_ratio,
        "k": points[DPP].k,
        "importance": sample.weighed_by,
        "against": {
            other: dataclasses.asdict(against)
            for other, against in report.comparisons(measurements, sample.name).items()
        },
        "selectors": {
            selector: {"importance_retention": point.importance_retention, "hopkins": point.hopkins}
            for selector, point in points.items()
        },
    }


def main(arguments: Sequence[str]) -> int:
    rows = []
    with tempfile.TemporaryDirectory() as directory:
        given = samples(Path(directory))
        for keep_ratio in KEEP_RATIOS:
            measurements = run(given, keep_ratio)
            rows += [row(sample, measurements, keep_ratio) for sample in given]
            if keep_ratio == KEEP_RATIOS[0]:
                by_tower = [sample for sample in given if sample.name.endswith(f"tower at {SHOWN_SIDE}")]
                figures.save(figures.pareto(given[:3] + by_tower, measurements), str(files.RESULTS / FIGURE))
                figures.save(figures.pairwise_angles(by_tower, measurements), str(files.RESULTS / ANGLES))
    versions = {name: metadata.version(name) for name in ("torch", "transformers", "scikit-image", "numpy")}
    result = {
        "versions": {"python": platform.python_version(), **versions},
        "vision_tower": SETTINGS.tower,
        "rows": rows,
    }
    files.write("analysis.json", result)
    render.write()
    print(analysis_table.table(result))
    return 0
