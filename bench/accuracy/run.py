"""``python -m bench accuracy``: what pruning costs in answers, on a small model that is trained here.

Four stages, each of which goes on where it was interrupted: features of the frozen tower; the training of projector,
decoder and VisionSelector's scorer; the answers to questions about held-out scenes; the tables. Without a stage, all of
them. Everything that is not a result stays in the cache folder, which has to be removed when the source has changed:
other settings are noticed, other source is not. ``--tiny`` runs all of it on an untrained tower in a
minute or two, to see that it runs; its scores mean nothing and go to the cache folder alone.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from bench import files, render
from bench.accuracy import evaluate, features, figure, lmms_eval_task, on_digits, score, scorer, table, train
from bench.accuracy.settings import FULL, TINY, Settings

STAGES = ("features", "train", "evaluate", "tables")
EXPORT = "lmms-eval"
"""A stage that runs only when it is asked for."""
RESULT, LOG, FIGURE = "accuracy.json", "accuracy-training.json", "accuracy.png"
VERSIONS = ("torch", "transformers", "scikit-learn", "scikit-image", "pillow", "numpy")
INTERRUPTED = 130
"""The exit code after Ctrl-C, as shells have it."""


def cache_folder() -> Path:
    """Where caches of a user are by convention."""
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "tokenprune_kernels" / "accuracy"


def result(settings: Settings, folder: Path) -> dict[str, Any]:
    """The result, from the answers that are kept in the folder."""
    log, scored = train.read_log(folder), scorer.read_log(folder)
    machine = {
        "processor": files.processor(),
        "threads": torch.get_num_threads(),
        "versions": {"python": platform.python_version(), **{name: metadata.version(name) for name in VERSIONS}},
    }
    return {
        "machine": machine,
        "settings": settings.as_result(),
        "model": {name: log[name] for name in ("parameters", "sha256", "products")}
        | {"seconds": round(log["alignment"]["seconds"] + log["seconds"], 1)},
        "scorer": {name: scored[name] for name in ("parameters", "seconds")},
        "rows": score.summarised(settings, evaluate.run(settings, folder)),
        "tokens_on_digits": on_digits.shares(settings, folder),
    }


def run(settings: Settings, folder: Path, stages: Sequence[str], results: Path | None) -> None:
    """Runs some stages.

    Args:
        settings: sizes and seeds.
        folder: where features, checkpoint and answers are kept.
        stages: some of ``STAGES``, which run in that order, and ``EXPORT``.
        results: where table and figure go; None for bench/results and the documents.
    """
    if "features" in stages:
        features.compute(settings, folder)
    if "train" in stages:
        train.run(settings, folder)
        scorer.run(settings, folder)
    if EXPORT in stages:
        print(lmms_eval_task.export(settings, folder))
    if "evaluate" in stages:
        evaluate.run(settings, folder)
    if "tables" in stages:
        made = result(settings, folder)
        files.write(RESULT, made, results)
        files.write(LOG, {"model": train.read_log(folder), "scorer": scorer.read_log(folder)}, results)
        figure.save(made, (results or files.RESULTS) / FIGURE)
        if results is None:
            render.write()
        print(table.table(made))


def main(arguments: Sequence[str]) -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m bench accuracy", description=__doc__)
    parser.add_argument(
        "stages",
        nargs="*",
        metavar="STAGE",
        help=f"any of {', '.join(STAGES)}, which are the default; {EXPORT} writes a local task of lmms-eval",
    )
    parser.add_argument("--cache", type=Path, default=cache_folder(), metavar="FOLDER", help="by default %(default)s")
    parser.add_argument("--tiny", action="store_true", help="a minute's run of everything, without meaning")
    options = parser.parse_args(arguments)
    unknown = [stage for stage in options.stages if stage not in (*STAGES, EXPORT)]
    if unknown:
        parser.error(f"expected stages of {', '.join((*STAGES, EXPORT))}, got {unknown[0]}")
    settings = TINY if options.tiny else FULL
    folder = options.cache / settings.name
    stages = options.stages or STAGES
    try:
        run(settings, folder, stages, folder / "results" if options.tiny else None)
    except KeyboardInterrupt:
        print("accuracy: interrupted; the same command goes on from here", file=sys.stderr)
        return INTERRUPTED
    except (ValueError, ImportError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0
