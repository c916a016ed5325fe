"""Which backend runs, how it is chosen, and why one cannot run."""

import json
import re
import shutil
import sys
from pathlib import Path

import pytest
import torch

import tokenprune_kernels
from tests.support.subprocess import python

PACKAGE = Path(tokenprune_kernels.__file__).parent
X = torch.eye(4)


def test_an_unknown_backend_is_named():
    with (
        pytest.raises(ValueError, match=r"^use_backend: expected one of auto, native, triton, got 'opencl'$"),
        tokenprune_kernels.use_backend("opencl"),
    ):
        pass


def test_a_backend_that_cannot_run_says_why():
    with (
        tokenprune_kernels.use_backend("triton"),
        pytest.raises(
            RuntimeError, match=r"^divprune: backend 'triton' cannot run on cpu tensors: it runs on CPU tensors only in"
        ),
    ):
        torch.ops.tokenprune.divprune(X, 2)
    assert torch.ops.tokenprune.divprune(X, 2).tolist() == [0, 1]


def test_blocks_nest_and_end():
    with tokenprune_kernels.use_backend("native"):
        with tokenprune_kernels.use_backend("triton"):
            assert tokenprune_kernels.build_info()["default_backend"] == "triton"
        assert tokenprune_kernels.build_info()["default_backend"] == "native"
        with pytest.raises(KeyError), tokenprune_kernels.use_backend("triton"):
            raise KeyError
        assert tokenprune_kernels.build_info()["default_backend"] == "native"


ONE_CALL = """
import torch, tokenprune_kernels as t
print(t.build_info()["default_backend"])
t.divprune(torch.eye(3), 1)
"""


@pytest.mark.parametrize(("name", "default"), [("native", "native"), pytest.param("", "auto", marks=pytest.mark.slow)])
def test_the_environment_sets_the_default(name, default):
    assert python(ONE_CALL, TOKENPRUNE_BACKEND=name).stdout.split() == [default]


@pytest.mark.slow
def test_a_default_that_cannot_run_says_why():
    refused = python(ONE_CALL, TOKENPRUNE_BACKEND="triton", TRITON_INTERPRET="0")
    assert refused.stdout.split() == ["triton"]
    assert "RuntimeError: divprune: backend 'triton' cannot run on cpu tensors" in refused.stderr


@pytest.mark.slow
def test_an_unknown_default_is_named():
    unknown = python(ONE_CALL, TOKENPRUNE_BACKEND="fast")
    assert "TOKENPRUNE_BACKEND: expected one of auto, native, triton, got 'fast'" in unknown.stderr


def test_build_info():
    info = tokenprune_kernels.build_info()
    assert info["versions"]["torch"] == torch.__version__
    assert info["versions"]["tokenprune_kernels"] == tokenprune_kernels.__version__
    assert set(info["backends"]) == {"native", "triton"}
    assert info["location"] == str(PACKAGE)
    assert info["threads"]["torch"] == torch.get_num_threads()
    assert info["torch_build"]["source"] == torch.version.git_version
    built = info["backends"]["native"]
    assert Path(built["file"]).parent == PACKAGE
    assert built["unavailable"] == {"cpu": None, "cuda": "it runs on CPU tensors only"}
    assert re.fullmatch(r"\d+\.\d+\.\d+", built["torch"])  # whichever it was built beside
    assert built["isa"] in built["supported_isas"]
    assert set(built["isa_by_dtype"]) == {"bfloat16", "float16", "float32"}
    assert set(built["isa_by_dtype"].values()) <= set(built["supported_isas"])
    assert json.loads(json.dumps(info)) == info


@pytest.fixture
def copied_package(tmp_path):
    """A copy of the package whose extension may be tampered with."""
    shutil.copytree(PACKAGE, tmp_path / "tokenprune_kernels", ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


REPORT = """
import torch, tokenprune_kernels as t
print(t.build_info()["backends"]["native"]["unavailable"]["cpu"])
print(t.divprune(torch.eye(3).to("meta"), 1).shape)
t.divprune(torch.eye(3), 1)
"""


def test_an_extension_of_another_declaration_is_refused(copied_package):
    declaration = copied_package / "tokenprune_kernels" / "declaration.py"
    declared = declaration.read_text()
    changed = declared.replace(
        "Tensor relevance, SymInt k, float lam=0.5", "Tensor relevance, SymInt k, float lam=0.25"
    )
    assert changed != declared
    declaration.write_text(changed)
    result = python(REPORT, path=copied_package)
    assert result.stdout.startswith("the extension declares mmr otherwise; rebuild it")
    assert "RuntimeError: divprune: backend 'native' cannot run on cpu tensors: the extension dec" in result.stderr


def test_a_missing_extension_is_reported(copied_package):
    (extension,) = (copied_package / "tokenprune_kernels").glob("_C*.so")
    extension.unlink()
    result = python(REPORT, path=copied_package)
    assert result.stdout.startswith("the extension is not built; run `pip install")
    assert "RuntimeError: divprune: backend 'native' cannot run on cpu tensors: the extension is not" in result.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="knows what the loader of Linux says")
@pytest.mark.parametrize(
    ("contents", "reason"),
    [
        pytest.param(b"", "file too short", id="empty", marks=pytest.mark.slow),
        pytest.param(b"no library" * 10, "invalid ELF header", id="broken"),
    ],
)
def test_an_extension_that_cannot_be_loaded_is_reported_with_the_reason(copied_package, contents, reason):
    (extension,) = (copied_package / "tokenprune_kernels").glob("_C*.so")
    extension.write_bytes(contents)
    result = python(REPORT, path=copied_package)
    assert result.stdout.splitlines()[0] == f"{extension}: {reason}"
    assert f"RuntimeError: divprune: backend 'native' cannot run on cpu tensors: {extension}: {reason}" in result.stderr


@pytest.mark.slow
def test_a_second_copy_of_the_extension_is_reported_and_leaves_the_first(copied_package):
    (first,) = PACKAGE.glob("_C*.so")
    code = (
        "import torch\n"
        f"torch.ops.load_library({str(first)!r})\n"
        "import tokenprune_kernels as t\n"
        "print(t.build_info()['backends']['native']['unavailable']['cpu'])\n"
        "print(torch.ops.tokenprune_native.divprune(torch.eye(4), 3).tolist())"
    )
    result = python(code, path=copied_package)
    assert result.stdout.splitlines() == [
        "another copy of the extension has registered its operators in this process; restart Python, or build this one "
        "with a NAMESPACE of its own",
        "[0, 1, 2]",
    ], result.stderr
    loaded_before = python(code, path=PACKAGE.parent)
    assert loaded_before.stdout.splitlines() == ["None", "[0, 1, 2]"], loaded_before.stderr


def test_the_compiled_operators_need_no_python_package():
    (extension,) = PACKAGE.glob("_C*.so")
    code = (
        "import sys, torch; torch.ops.load_library(sys.argv[1]) if len(sys.argv) > 1 else None\n"
        f"torch.ops.load_library({str(extension)!r})\n"
        "print(torch.ops.tokenprune_native.divprune(torch.eye(4), 3).tolist(), 'tokenprune_kernels' in sys.modules)"
    )
    assert python(code).stdout.strip() == "[0, 1, 2] False"
