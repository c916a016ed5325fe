"""The command line, ``python -m tokenprune_kernels``: ``prune``, ``analyse``, ``select`` and ``info``."""

from __future__ import annotations

import argparse
import io
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter
from typing import Any, NoReturn

from . import analysis, importance, option_values, select_command
from .analysis import figures, pictures
from .analysis.progress import Progress
from .calls import kept_count
from .dispatch import build_info
from .kept_tokens import prune
from .methods import METHODS


class _Parser(argparse.ArgumentParser):
    """A parser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {' '.join(message.split())}\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command.

    Args:
        arguments: what follows ``python -m tokenprune_kernels``; by default that of this process.

    Returns:
        The exit code: 0, or 1 if whoever read the output has stopped.

    Raises:
        SystemExit: after one line on stderr; with code 2 if it says what was expected and what came, 130 after Ctrl-C.
    """
    parser = _Parser(prog="python -m tokenprune_kernels", description="Exact selection of visual tokens.")
    commands = parser.add_subparsers(metavar="COMMAND")
    _add_prune(commands)
    _add_analyse(commands)
    select_command.add(commands)
    _add_info(commands)
    options, surplus = parser.parse_known_args(arguments)
    if surplus:
        parser.error(f"expected no further arguments, got {' '.join(surplus)}")
    if not hasattr(options, "run"):
        parser.error(f"expected a command, one of {', '.join(commands.choices)}, got none")
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a name that a terminal cannot show is no error
    try:
        options.run(options)
        sys.stdout.flush()
    except KeyboardInterrupt as interrupt:
        parser.exit(130, f"{parser.prog}: interrupted{f'; {interrupt}' if str(interrupt) else ''}\n")
    except BrokenPipeError:  # whoever reads the output has read enough
        _drop_output()
        return 1
    except MemoryError as error:
        parser.error(f"expected enough memory, got {str(error) or 'too little'}")
    except OSError as error:
        _drop_output()
        parser.error(f"expected output that can be written, got {error.strerror or error}")
    except (ImportError, RuntimeError, ValueError) as error:
        parser.error(str(error))
    return 0


def _drop_output() -> None:
    """Has the interpreter not try again, at its end, to write what could not be written."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _add_prune(commands: Any) -> None:
    command = commands.add_parser("prune", help="prune a picture's patches and draw the ones that are kept")
    command.add_argument("image", metavar="IMAGE", help="a picture file")
    _add_keep(command)
    command.add_argument(
        "--method",
        type=option_values.one_of(METHODS),
        default="divprune",
        metavar="METHOD",
        help=f"one of {', '.join(METHODS)} (divprune)",
    )
    command.add_argument(
        "--lam",
        type=option_values.lam,
        metavar="SHARE",
        help=f"weight of importance, the token norm, in [0, 1] (0.5): 1 ranks by it alone, 0 by diversity alone; with "
        f"{option_values.WITH_LAM}",
    )
    command.add_argument("--out", default="kept.png", metavar="FILE", help="the picture to write (kept.png)")
    command.set_defaults(run=_prune)


def _add_analyse(commands: Any) -> None:
    command = commands.add_parser(
        "analyse", help="measure importance and diversity of every selector on pictures or saved features"
    )
    command.add_argument("images", metavar="IMAGE", nargs="*", help="picture files")
    command.add_argument(
        "--features",
        metavar="FILE",
        help="a safetensors file with features [N, D] or [B, N, D], and importance and grid if you have them",
    )
    command.add_argument(
        "--vision-tower", metavar="PATH", help="a directory with a transformers vision tower, to take features from"
    )
    _add_keep(command)
    command.add_argument("--out", default="report", metavar="DIRECTORY", help="where figures and CSV go (report)")
    command.set_defaults(run=_analyse)


def _add_keep(command: Any) -> None:
    command.add_argument(
        "--longest-side",
        type=_side,
        metavar="PIXELS",
        help="scale pictures down until their longer side has at most so many pixels (all of them)",
    )
    command.add_argument(
        "--keep",
        type=option_values.keep_ratio,
        default=0.1,
        metavar="RATIO",
        help="share of patches to keep, in (0, 1] (0.1)",
    )


def _add_info(commands: Any) -> None:
    command = commands.add_parser("info", help="what is installed and what can run here")
    command.set_defaults(run=_info)


def _side(text: str) -> int:
    side = option_values.number(text)
    if not (side >= pictures.PATCH and side % 1 == 0):
        raise argparse.ArgumentTypeError(f"expected a whole number of at least {pictures.PATCH} pixels, got {text!r}")
    return int(side)


def _prune(options: argparse.Namespace) -> None:
    method = METHODS[options.method]
    option_values.check_lam(options.lam, options.method)
    if Path(options.out).exists() and Path(options.image).exists() and Path(options.out).samefile(options.image):
        raise ValueError(f"argument --out: expected another file than the picture, got {options.out!r}")
    with Progress(4) as progress:
        progress.step("reading the picture")
        picture = pictures.open_picture(options.image, options.longest_side)
        progress.step("making tokens of the patches")
        tokens = pictures.patch_tokens(picture)
        progress.step(f"selecting among {len(tokens):,} patches")
        norm = importance.norm(tokens)
        start = perf_counter()
        _, kept = prune(
            tokens,
            keep_ratio=options.keep,
            method=options.method,
            relevance=norm / norm.max() if method.weight == "relevance" else None,
            importance=norm if method.weight == "importance" else None,
            lam=options.lam,
        )
        elapsed = perf_counter() - start
        progress.step("drawing")
        pictures.save_picture(pictures.draw_kept(picture, kept), options.out)
    print(f"{options.method} kept {len(kept):,} of {len(tokens):,} patches in {1e3 * elapsed:.1f} ms")
    print(f"wrote {options.out}")


def _analyse(options: argparse.Namespace) -> None:
    if options.features is not None and options.vision_tower is not None:
        raise ValueError("analyse: expected --features or --vision-tower, got both")
    if not options.images and options.features is None:
        raise ValueError("analyse: expected an IMAGE or --features, got neither")
    figures.check_matplotlib()
    if options.features is not None:
        samples = analysis.from_features(options.features, options.images)
    elif options.vision_tower is not None:
        tower = analysis.load_vision_tower(options.vision_tower)
        samples = [tower(image) for image in options.images]
    else:
        samples = [analysis.from_picture(image, options.longest_side) for image in options.images]
    names = [sample.name for sample in samples]
    if len(set(names)) < len(names):
        raise ValueError(f"analyse: expected pictures of different names, got {', '.join(names)}")
    plans = []
    for sample in samples:
        k = kept_count("analyse", len(sample.x), options.keep)
        if k < 2:
            raise ValueError(f"analyse: expected --keep to keep at least 2 tokens, got {k} of {sample.name}")
        plans += [(sample, step) for step in analysis.steps(sample, k)]
    out, measurements = Path(options.out), []
    analysis.start_measurements(out)
    with Progress(len(plans)) as progress:
        for sample, step in plans:
            progress.step(f"{sample.name}: {step.selector}")
            measurements.append(analysis.measure(sample, step))
            analysis.append_measurements(measurements[-1:], out)
    print(analysis.table(samples, measurements))
    for path in (out / "measurements.csv", *analysis.write_figures(samples, measurements, out)):
        print(f"wrote {path}")


def _info(options: argparse.Namespace) -> None:
    information = build_info()
    for name, version in information["versions"].items():
        print(f"{name} {version or 'not installed'}")
    for key in ("newest_torch_tried", "platform", "location", "torch_build", "threads", "default_backend"):
        print(f"{key.replace('_', ' ')}: {_as_text(information[key])}")
    for name, backend in information["backends"].items():
        print(f"{name}:")
        for key, value in backend.items():
            if key == "unavailable":
                for device_type, reason in value.items():
                    print(f"  {device_type} tensors: {f'cannot run, {reason}' if reason else 'runs'}")
            else:
                print(f"  {key.replace('_', ' ')}: {_as_text(value)}")


def _as_text(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key.replace('_', ' ')} {_as_text(each)}" for key, each in value.items())
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    return "none" if value is None else str(value)


if __name__ == "__main__":
    sys.exit(main())
