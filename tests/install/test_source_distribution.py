"""The source distribution has all that the extension is compiled from, and builds with the installed torch alone."""

import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from tests.support.subprocess import python

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.skipif(not (ROOT / "setup.py").exists(), reason="needs the source tree")


def build(command, tree, **options):
    return subprocess.run(
        [sys.executable, *command], cwd=tree, capture_output=True, text=True, check=False, timeout=1200, **options
    )


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory):
    """The source distribution of this tree, made without a network, unpacked elsewhere."""
    folder = tmp_path_factory.mktemp("sdist")
    made = build(["setup.py", "-q", "egg_info", f"--egg-base={folder}", "sdist", f"--dist-dir={folder}"], ROOT)
    assert made.returncode == 0, made.stderr
    (archive,) = folder.glob("*.tar.gz")
    with tarfile.open(archive) as files:
        files.extractall(folder / "tree", filter="data")
    (tree,) = (folder / "tree").iterdir()
    return tree


def sources(folder, *suffixes):
    return {path.relative_to(folder) for path in folder.rglob("*") if path.suffix in suffixes}


def test_nothing_is_missing_and_nothing_built_is_there(unpacked):
    for folder, suffixes in {
        "csrc": (".cpp", ".h", ".inc"),
        "tokenprune_kernels": (".py", ".md", ".typed"),
        "tests": (".py", ".cpp"),
        "python_ref": (".py",),
    }.items():
        expected = sources(ROOT / folder, *suffixes)
        assert expected
        assert sources(unpacked / folder, *suffixes) == expected
    assert {"setup.py", "pyproject.toml", "LICENSE", "README.md", "Makefile"} <= {p.name for p in unpacked.iterdir()}
    assert not sources(unpacked, ".so", ".pyc", ".o")


@pytest.mark.slow
def test_the_compiler_finds_every_header(unpacked, tmp_path):
    """The preprocessor alone, over every source: a missing header is an error, and takes no minutes."""
    script = f"""
import os, subprocess, setuptools
given = {{}}
setuptools.setup = lambda **arguments: given.update(arguments)
import setup
setup.write_operators_header()
(extension,) = given["ext_modules"]
includes = [option for folder in extension.include_dirs for option in ("-I", folder)]
includes += [flag for flag in extension.extra_compile_args if flag.startswith(("-isystem", "-D"))]
for source in extension.sources:
    command = [os.environ.get("CXX", "c++"), "-std=c++20", "-M", *includes, source]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr
    assert {str(ROOT / "csrc")!r} not in found.stdout
print(len(extension.sources), "sources")
"""
    (unpacked / "preprocess.py").write_text(script)
    result = build(["preprocess.py"], unpacked)
    (unpacked / "preprocess.py").unlink()
    assert result.stdout.strip() == f"{len(list((ROOT / 'csrc').rglob('*.cpp')))} sources", result.stderr


@pytest.mark.slow
def test_the_unpacked_copy_builds_and_selects(unpacked):
    built = build(["setup.py", "-q", "build_ext", "--inplace"], unpacked)
    assert built.returncode == 0, built.stderr[-3000:]
    code = "import torch, tokenprune_kernels as t; print(t.__file__, t.divprune(torch.eye(4), 3).tolist())"
    result = python(code, path=unpacked)
    assert result.stdout.split(maxsplit=1) == [
        str(unpacked / "tokenprune_kernels" / "__init__.py"),
        "[0, 1, 2]\n",
    ], result.stderr


SETUP = "import runpy, sys; sys.argv = ['setup.py', *{arguments!r}]; runpy.run_path('setup.py', run_name='__main__')"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("torch", "line"),
    [
        (
            "import sys; sys.modules['torch'] = None",
            "tokenprune_kernels: expected to be built with the installed torch, got a build without torch; install "
            "torch and ninja, and run pip with --no-build-isolation",
        ),
        (
            "import torch; torch.__version__ = '2.10.1+cu130'",
            "tokenprune_kernels: expected torch 2.11 or newer, got torch 2.10.1+cu130",
        ),
    ],
    ids=["no torch", "too old"],
)
def test_a_build_that_cannot_work_ends_with_one_line(unpacked, torch, line):
    result = build(["-c", f"{torch}\n{SETUP.format(arguments=['-q', 'build_ext', '--inplace'])}"], unpacked)
    assert result.returncode != 0
    assert result.stderr.splitlines()[-1] == line


def test_metadata_needs_no_torch(unpacked):
    code = f"import sys; sys.modules['torch'] = None\n{SETUP.format(arguments=['--name'])}"
    assert build(["-c", code], unpacked).stdout.strip() == "tokenprune_kernels"


def test_an_isolated_build_asks_for_no_torch():
    text = (ROOT / "pyproject.toml").read_text()
    (requires,) = (line for line in text.splitlines() if line.startswith("requires = "))
    assert "torch>" not in requires
    assert "setuptools" in requires


@pytest.mark.slow
@pytest.mark.parametrize(
    ("python", "api"),
    [({}, "cp310"), ({"Py_GIL_DISABLED": 1, "EXT_SUFFIX": ".cpython-314t-x86_64-linux-gnu.so"}, "False")],
    ids=["this Python", "free-threaded"],
)
def test_the_extension_has_one_name_and_the_wheel_a_tag_that_its_python_takes(python, api):
    code = f"""
import sysconfig
sysconfig.get_config_vars().update({python!r})
import setuptools
from distutils.core import run_setup
build = run_setup("setup.py", ["-q", "bdist_wheel"], stop_after="commandline")
extension, wheel = (build.get_command_obj(name) for name in ("build_ext", "bdist_wheel"))
extension.ensure_finalized()
wheel.ensure_finalized()
print(extension.get_ext_fullpath("tokenprune_kernels._C").rpartition("/")[2], wheel.py_limited_api)
"""
    result = build(["-c", code], ROOT)
    assert result.stdout.split() == ["_C.abi3.so", api], result.stderr
