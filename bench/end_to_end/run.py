"""Vision-language models in full width, without pruning, with this package's and with the published loop.

``python -m bench e2e`` writes ``bench/results/end-to-end-DEVICE.json`` and the tables of docs/benchmarks.md. With
``--models``, which leaves some out, tables are printed and nothing is written.
"""

from __future__ import annotations

import argparse
import dataclasses
import gc
import json
import platform
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers

from bench import files, render
from bench.end_to_end.measure import Measurement, pruners_of
from bench.end_to_end.models import MODELS, TEXT_TOKENS, FullSize
from bench.end_to_end.table import summary
from bench.files import processor
from tokenprune_kernels.analysis.progress import Progress

# Fewer would not do to extrapolate from.
LEAST_LAYERS = 4
DEFAULTS = {
    "cpu": {"layers": LEAST_LAYERS, "new_tokens": 8, "runs": 2},
    "cuda": {"layers": None, "new_tokens": 64, "runs": 10},
}


def measured(case: FullSize, options: argparse.Namespace, report: Callable[[str], None]) -> dict[str, Any]:
    """All rows of a model."""
    layers, vision_layers = (min(depth, options.layers or depth) for depth in (case.layers, case.vision_layers))
    measurement = Measurement(case, options.device, layers, vision_layers, options.new_tokens, options.runs, report)
    rows = measurement.rows(pruners_of(case.divprune_ratio))
    del measurement
    gc.collect()  # models hold references to themselves, and the next one needs the memory
    torch.cuda.empty_cache()
    return {
        "name": case.name,
        "visual": case.visual,
        "modality": case.modality,
        "layers": [layers, case.layers],
        "vision_layers": [vision_layers, case.vision_layers],
        "rows": [dataclasses.asdict(row) for row in rows],
    }


def machine(device: str) -> dict[str, Any]:
    """The hardware and the versions that the numbers belong to."""
    cuda = device == "cuda"
    return {
        "name": torch.cuda.get_device_name() if cuda else processor(),
        "threads": torch.get_num_threads(),
        "cuda": torch.version.cuda if cuda else None,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "python": platform.python_version(),
    }


def parsed(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench e2e", description=__doc__.partition("\n")[0])
    parser.add_argument("--device", choices=DEFAULTS, default="cpu")
    parser.add_argument("--layers", type=int, help="how many layers of each stack to keep (CPU: 4; CUDA: all)")
    parser.add_argument("--new-tokens", type=int, help="how many tokens to generate (CPU: 8; CUDA: 64)")
    parser.add_argument("--runs", type=int, help="timed runs of each row (CPU: 2; CUDA: 10)")
    parser.add_argument(
        "--models", nargs="+", choices=[case.name for case in MODELS], help="only these; writes nothing"
    )
    parser.add_argument("--out", type=Path, metavar="FILE", help="also write the result to this file")
    options = parser.parse_args(arguments)
    for name, value in DEFAULTS[options.device].items():
        if getattr(options, name) is None:
            setattr(options, name, value)
    for name, least in (("layers", LEAST_LAYERS), ("new_tokens", 1), ("runs", 1)):
        value = getattr(options, name)
        if value is not None and value < least:
            parser.error(f"expected --{name.replace('_', '-')} to be at least {least}, got {value}")
    return options


def main(arguments: Sequence[str]) -> int:
    """Measures; the exit code is 1 where an operator has no time and 2 without the device."""
    options = parsed(arguments)
    if options.device == "cuda" and not torch.cuda.is_available():
        print("bench e2e: expected a CUDA device, got none", file=sys.stderr)
        return 2
    cases = [case for case in MODELS if case.name in (options.models or [case.name])]
    with Progress(sum(2 + 2 * len(pruners_of(case.divprune_ratio)) for case in cases), lines=True) as progress:
        models = [measured(case, options, progress.step) for case in cases]
    result = {
        "device": options.device,
        "machine": machine(options.device),
        "text_tokens": TEXT_TOKENS,
        "new_tokens": options.new_tokens,
        "runs": options.runs,
        "models": models,
    }
    print(summary(result))
    if options.out:
        options.out.write_text(json.dumps(result, indent=1) + "\n")
    if not options.models:
        files.write(f"end-to-end-{options.device}.json", result)
        render.write()
    return 0 if all(row["prefill"] for model in models for row in model["rows"]) else 1
