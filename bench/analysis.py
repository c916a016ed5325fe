"""MMR's trade-off of importance and diversity against the naive mixture's and the DPP's, on pictures and on features.

``python -m bench analysis`` writes bench/results/analysis.json, the figure beside it, and the table of
docs/benchmarks.md. Nothing here is timed, so that it may run beside other work.
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
import transformers

from bench import analysis_table, files, render
from tokenprune_kernels import analysis
from tokenprune_kernels.analysis import figures, report
from tokenprune_kernels.analysis.progress import Progress
from tokenprune_kernels.analysis.selections import DPP, SHOWN, shown
from tokenprune_kernels.calls import kept_count

PICTURES = ("astronaut.png", "chelsea.png", "coffee.png", "motorcycle_left.png", "rocket.jpg")
EMBEDDED = PICTURES[:3]
KEEP_RATIOS = (0.1, 0.25)
FIGURE = "analysis.png"

# A vision transformer of CLIP's design with seeded random weights: there are no trained ones to be had offline.
TOWER = {
    "hidden_size": 512,
    "intermediate_size": 2_048,
    "num_hidden_layers": 6,
    "num_attention_heads": 8,
    "image_size": 336,
    "patch_size": 14,
}


def samples(directory: Path) -> list[analysis.Sample]:
    """The patches of the photographs, then what a user has who saved a vision tower's features."""
    paths = [str(Path(skimage.data_dir) / name) for name in PICTURES]
    torch.manual_seed(0)
    transformers.CLIPVisionModel(transformers.CLIPVisionConfig(**TOWER)).save_pretrained(directory / "tower")
    tower = analysis.load_vision_tower(directory / "tower")
    made = [tower(path) for path in paths[: len(EMBEDDED)]]
    saved = {
        "features": torch.stack([sample.x for sample in made]).bfloat16(),
        "importance": torch.stack([sample.importance for sample in made]),
        "grid": torch.tensor(made[0].grid),
    }
    safetensors.torch.save_file(saved, directory / "features.safetensors")
    names = [f"{sample.name}, untrained ViT" for sample in made]
    return [
        *(analysis.from_picture(path) for path in paths),
        *analysis.from_features(directory / "features.safetensors", paths[: len(EMBEDDED)], names),
    ]


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
                figures.save(figures.pareto(given[:3] + given[-3:], measurements), str(files.RESULTS / FIGURE))
    versions = {name: metadata.version(name) for name in ("torch", "transformers", "scikit-image", "numpy")}
    result = {"versions": {"python": platform.python_version(), **versions}, "vision_tower": TOWER, "rows": rows}
    files.write("analysis.json", result)
    render.write()
    print(analysis_table.table(result))
    return 0
