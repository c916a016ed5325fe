"""Applies each mutant in a copy of the tree, and finds a test that fails: `python -m tests.mutants.run`.

A mutant meets the tests of its own room first, without those marked slow. One that survives them meets `make test`. The
rooms' tests are among those of `make test`, so a mutant that its room kills needs no second run.

Results go to results.md beside this file after each mutant. A mutant that has a row there is not run again, unless it
is named or has met its room alone.
"""

import argparse
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

from tests.mutants.table import MUTANTS, ROOMS
from tokenprune_kernels import build_info

ROOT = Path(__file__).resolve().parent.parent.parent
COPY = ROOT / "build" / "mutants"
MUTATED = COPY / "the extension is that of a mutant"
RESULTS = Path(__file__).with_name("results.md")
TIMEOUT = 1_200
LEFT = "survives its room"  # and has not met `make test`
HEADER = """# Mutants

Written by `python -m tests.mutants.run`. A row says which test kills the mutant, and how many seconds that took.

| mutant | room | file | what it breaks | killed by | seconds |
|---|---|---|---|---|---|
"""


def copy_tree():
    """Brings the copy up to date. Files that have not changed keep their times, and their object files."""
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    extensions = [path.relative_to(ROOT) for path in ROOT.glob("tokenprune_kernels/_C*.so")]
    for name in [*listed.stdout.splitlines(), *extensions]:
        source, target = ROOT / name, COPY / name
        if source.is_symlink() or not source.is_file() or (target.suffix == ".so" and target.exists()):
            continue
        if not target.exists() or target.read_bytes() != source.read_bytes():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)


def run(command, timeout=TIMEOUT, **environment):
    """Runs a command in the copy. Returns its exit status, None after the timeout, and its output."""
    process = subprocess.Popen(
        command,
        cwd=COPY,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        output, _ = process.communicate(timeout=timeout)
        return process.returncode, output
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        return None, process.communicate()[0]


def build():
    status, output = run([sys.executable, "setup.py", "-q", "build_ext", "--inplace"])
    return status == 0, output


def first_failure(status, output):
    """The name of a test that failed, None where all passed."""
    if status == 0:
        return None
    if status is None:
        return "timeout"
    named = re.search(r"^(?:FAILED|ERROR) (.+?)(?: - .*)?$", output, re.MULTILINE)
    return named[1] if named else f"exit status {status}"


def room_tests(room):
    interpreted = {"TRITON_INTERPRET": "1"} if room.marks.startswith("interpret") else {}
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-m", room.marks, *room.tests]
    return first_failure(*run(command, **interpreted))


def make_test():
    command = ["make", "-o", "build", "test", f"PY={sys.executable}"]
    return first_failure(*run(command, timeout=2 * TIMEOUT, PYTEST_ADDOPTS="-x"))


def killer(mutant, rooms_only):
    """The first test that fails with the mutant, None where none does."""
    path, room = COPY / mutant.file, ROOMS[mutant.room]
    source = path.read_text()
    compiled = mutant.file.startswith("csrc/")
    if MUTATED.exists() and not (compiled and room.needs_build):
        build()
        MUTATED.unlink()
    path.write_text(source.replace(mutant.old, mutant.new))
    try:
        if room.needs_build:
            MUTATED.touch()
            if not build()[0]:
                return "the compiler"
        failed = room_tests(room)
        if failed is None and not rooms_only:
            if compiled and not room.needs_build:
                MUTATED.touch()
                build()
            failed = make_test()
        return failed
    finally:
        path.write_text(source)


def read_results():
    """The rows of results.md, by the mutant's name."""
    if not RESULTS.exists():
        return {}
    rows = [line for line in RESULTS.read_text().splitlines() if line.startswith("| `")]
    return {row.split("`")[1]: row for row in rows}


def write_results(rows):
    known = [rows[mutant.name] for mutant in MUTANTS if mutant.name in rows]
    survivors = sum("**survives" in row for row in known)
    closing = f"\n{len(known)} of {len(MUTANTS)} mutants have run; {survivors} survive.\n"
    RESULTS.write_text(HEADER + "".join(f"{row}\n" for row in known) + closing)


def check_table():
    """Raises unless every old text occurs once."""
    for mutant in MUTANTS:
        found = (ROOT / mutant.file).read_text().count(mutant.old)
        if found != 1:
            raise SystemExit(f"{mutant.name}: expected its old text once in {mutant.file}, got {found} times")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="mutants to run, again where they have run; by default all others")
    parser.add_argument("--room", choices=ROOMS, help="only the mutants of this room")
    parser.add_argument("--minutes", type=float, default=120, help="begin no mutant after this long")
    parser.add_argument("--rooms-only", action="store_true", help="leave the survivors of the rooms to a later run")
    given = parser.parse_args()
    check_table()
    copy_tree()
    rows, end = read_results(), time.monotonic() + 60 * given.minutes
    chosen = [
        mutant
        for mutant in MUTANTS
        if (mutant.name in given.names if given.names else LEFT in rows.get(mutant.name, LEFT))
        and given.room in (None, mutant.room)
    ]
    # A test that fails without a mutant would kill them all.
    if MUTATED.exists() or any(ROOMS[mutant.room].needs_build for mutant in chosen):
        if not build()[0]:
            raise SystemExit("the copy does not compile")
        MUTATED.unlink(missing_ok=True)
    for name in {mutant.room: None for mutant in chosen}:
        failed = room_tests(ROOMS[name])
        if failed is not None:
            raise SystemExit(f"{name}: expected its tests to pass without a mutant, got a failure of {failed}")
    isas = build_info()["backends"]["native"]["supported_isas"]
    for mutant in chosen:
        if time.monotonic() > end:
            break
        started = time.monotonic()
        if mutant.isa and mutant.isa not in isas:
            failed = f"not run: the machine has no {mutant.isa}"
        else:
            failed = killer(mutant, given.rooms_only)
        seconds = time.monotonic() - started
        survives = f"**{LEFT}**" if given.rooms_only else "**survives**"
        verdict = survives if failed is None else f"`{failed}`"
        rows[mutant.name] = (
            f"| `{mutant.name}` | {mutant.room} | `{mutant.file}` | {mutant.breaks} | {verdict} | {seconds:.0f} |"
        )
        write_results(rows)
        print(rows[mutant.name], flush=True)


if __name__ == "__main__":
    main()
