"""Installs the package in every way beside every torch: `make test-wheel`.

    python -m tests.install.matrix --torch 2.13.0
    python -m tests.install.matrix --quick
    python -m tests.install.matrix --torch 2.15.0 --python 3.13 --path wheel --record

One environment is there at a time, and deleted afterwards. With `--record`, results go into results.json cell by cell,
and from there into docs/install.md; a cell that was tried with the same wheel is not tried again.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import sys
import zipfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from bench.markdown import heading, line, put_between
from tests.install.environments import ROOT, Environment, StepError, interpreter_of, run
from tests.install.paths import PATHS, Source

RESULTS = Path(__file__).with_name("results.json")
PAGE = ROOT / "docs" / "install.md"
WORK = ROOT / "build" / "install"
TORCHES = ("2.11.0", "2.13.0", "2.14.1", "2.15.0")
PYTHONS = ("3.10", "3.11", "3.12", "3.13", "3.14", "3.14t")
PYTHON = "3.11"  # of the columns of torch
_NOT_TRIED = "not tried here"
# These end before anything is installed: they run beside the tests of the wheel.
_IN_BACKGROUND = ("isolated", "no_compiler")


def read() -> dict[str, Any]:
    """The committed results."""
    return json.loads(RESULTS.read_text()) if RESULTS.exists() else {"cells": []}


def digest_of(wheel: Path) -> str:
    """A hash of what is in a wheel, whenever it was packed."""
    digest = hashlib.sha256()
    with zipfile.ZipFile(wheel) as files:
        for name in sorted(files.namelist()):
            if ".dist-info/" not in name:
                digest.update(name.encode() + files.read(name))
    return digest.hexdigest()[:16]


def main() -> int:
    """Tries what the command line asks for; 1 if a cell failed."""
    parser = argparse.ArgumentParser(prog="python -m tests.install.matrix")
    parser.add_argument("--torch", action="append", help=f"a release; all: {' '.join(TORCHES)}")
    parser.add_argument("--python", action="append", help=f"a release of Python, {PYTHON} by default")
    parser.add_argument("--path", action="append", choices=PATHS, help="a way to install; all by default")
    parser.add_argument("--record", action="store_true", help="into results.json and docs/install.md")
    parser.add_argument("--again", action="store_true", help="also what was tried with this wheel")
    parser.add_argument("--render", action="store_true", help="the page from results.json, trying nothing")
    parser.add_argument("--quick", action="store_true", help="the wheel and the refused builds alone, with few tests")
    options = parser.parse_args()
    if options.quick and (options.record or options.path):
        parser.error("--quick: expected neither --record nor --path")
    if options.render:
        render(read())
        return 0
    source = _sources(options.quick)
    digest = digest_of(source.wheel)
    asked = ("wheel", *_IN_BACKGROUND) if options.quick else options.path or tuple(PATHS)
    torches = TORCHES if options.torch == ["all"] else options.torch or ["2.13.0"]
    failed = False
    for python in options.python or [PYTHON]:
        for torch in torches:
            known = {} if options.again or not options.record else {_key(cell): cell for cell in read()["cells"]}
            paths = [path for path in asked if known.get((path, torch, python), {}).get("wheel") != digest]
            for cell in _try(source, torch, python, paths):
                cell["wheel"] = digest
                print(f"{cell['path']}, torch {cell['torch']}, Python {cell['python']}: {_text(cell)}", flush=True)
                failed |= cell["outcome"] == "failed"
                if options.record:
                    _record(cell)
    return int(failed)


def _sources(quick: bool) -> Source:
    """The one wheel in dist, and a source distribution made now."""
    wheels = list((ROOT / "dist").glob("*.whl"))
    if len(wheels) != 1:
        raise SystemExit(f"dist: expected one wheel, got {len(wheels)}; run make wheel")
    WORK.mkdir(parents=True, exist_ok=True)
    for old in WORK.glob("*.tar.gz"):
        old.unlink()
    run(
        [sys.executable, "setup.py", "-q", "egg_info", f"--egg-base={WORK}", "sdist", f"--dist-dir={WORK}"],
        timeout=120,
    )
    return Source(wheels[0], next(WORK.glob("*.tar.gz")), quick)


def _try(source: Source, torch: str, python: str, paths: Sequence[str]) -> list[dict[str, Any]]:
    """The cells of one environment."""
    if not paths:
        return []
    fixed = {"torch": torch, "python": python}
    interpreter = interpreter_of(python)
    if interpreter is None:
        return [_cell(path, fixed, _NOT_TRIED, f"no Python {python} on the machine") for path in paths]
    environment = Environment(WORK / "venv", interpreter)
    try:
        environment.make(torch)
        full = dict(zip(("torch_build", "python_build"), environment.versions(), strict=True))
    except StepError as error:
        print(error, file=sys.stderr)
        return [_cell(path, fixed, _NOT_TRIED, "torch could not be installed") for path in paths]

    def attempt(path: str) -> dict[str, Any]:
        try:
            detail = PATHS[path][1](environment, source, WORK)
        except StepError as error:
            print(error, file=sys.stderr)
            return {**_cell(path, fixed, "failed", str(error).splitlines()[0]), **full}
        return {**_cell(path, fixed, "refused" if path in _IN_BACKGROUND else "passed", detail), **full}

    try:
        with ThreadPoolExecutor() as pool:
            background = [pool.submit(attempt, path) for path in paths if path in _IN_BACKGROUND]
            cells = [attempt(path) for path in paths if path not in _IN_BACKGROUND]
            return cells + [future.result() for future in background]
    finally:
        environment.remove()


def _cell(path: str, fixed: dict[str, str], outcome: str, detail: str) -> dict[str, Any]:
    return {"path": path, **fixed, "outcome": outcome, "detail": detail}


def _key(cell: dict[str, Any]) -> tuple[str, str, str]:
    return cell["path"], cell["torch"], cell["python"]


def _text(cell: dict[str, Any]) -> str:
    return f"{cell['outcome']}: {cell['detail']}" if cell["detail"] else cell["outcome"]


def _record(cell: dict[str, Any]) -> None:
    results = read()
    cells = {_key(each): each for each in results["cells"]}
    cells[_key(cell)] = cell
    results["cells"] = [cells[key] for key in sorted(cells, key=_order)]
    RESULTS.write_text(json.dumps(results, indent=1) + "\n")
    render(results)


def _order(key: tuple[str, str, str]) -> tuple[Any, ...]:
    path, torch, python = key
    return [int(part) for part in re.findall(r"\d+", python)], [*PATHS].index(path), torch.split(".")


def newest_tried(results: dict[str, Any]) -> str | None:
    """The newest release of torch beside which the wheel passed, as ``2.15``; None if there is none."""
    passed = [cell["torch"] for cell in results["cells"] if (cell["path"], cell["outcome"]) == ("wheel", "passed")]
    releases = (torch.rpartition(".")[0] for torch in passed)
    return max(releases, key=lambda release: [*map(int, release.split("."))], default=None)


def tables(results: dict[str, Any]) -> dict[str, str]:
    """The tables of the page, by their markers."""
    cells = {_key(cell): cell for cell in results["cells"]}
    lines: list[str] = []

    def shown(path: str, torch: str, python: str) -> str:
        cell = cells.get((path, torch, python))
        if cell is None:
            return _NOT_TRIED
        if cell["outcome"] == "refused":
            if cell["detail"] not in lines:
                lines.append(cell["detail"])
            return f"refused ({lines.index(cell['detail']) + 1})"
        return _text(cell)

    by_torch = heading(["", *(f"torch {torch}" for torch in TORCHES)])
    for path, (title, _) in PATHS.items():
        by_torch.append(line([title, *(shown(path, torch, PYTHON) for torch in TORCHES)]))
    by_torch += ["", "Where a build is refused, it ends with this line:", ""]
    by_torch += [f"{number}. `tokenprune_kernels: {text}`" for number, text in enumerate(lines, 1)]

    by_python = heading(["Python", "the wheel"])
    for python in PYTHONS:
        tried = [torch for torch in TORCHES if ("wheel", torch, python) in cells]
        texts = [f"torch {torch}: {shown('wheel', torch, python)}" for torch in tried[-1:]]
        by_python.append(line([python, "; ".join(texts) or _NOT_TRIED]))
    return {"install table": "\n".join(by_torch), "python table": "\n".join(by_python)}


def render(results: dict[str, Any]) -> None:
    """Puts the tables into the page."""
    for name, table in tables(results).items():
        put_between(name, table, PAGE)


if __name__ == "__main__":
    sys.exit(main())
