"""The layout of Hugging Face kernels, loaded without the Hub. `make kernel-layout` writes it."""

import ast
import json
import os
import sys
from pathlib import Path

import pytest
import torch

import tokenprune_kernels
from tests.support.inputs import METHODS, gaussian_tokens, oracle, random_weight
from tests.support.subprocess import python

ROOT = Path(__file__).parents[2]
LAYOUT = ROOT / "build" / "kernel"
VARIANTS = sorted((LAYOUT / "build").glob("*")) if LAYOUT.exists() else []
ALLOWED = {*sys.stdlib_module_names, "torch", "triton"}
pytestmark = pytest.mark.skipif(not VARIANTS, reason="needs `make kernel-layout`")


@pytest.fixture(params=VARIANTS, ids=lambda path: path.name)
def variant(request):
    return request.param


@pytest.fixture(scope="module")
def kernels():
    return pytest.importorskip("kernels")


@pytest.fixture(scope="module")
def kernel(kernels):
    """The compiled kernel, in the process of the tests, which has imported the package too."""
    return kernels.get_local_kernel(LAYOUT, backend="cpu")


def test_there_are_both_variants():
    triton, compiled = VARIANTS
    assert compiled.name.startswith("torch-stable-abi211-cpu-")
    assert triton.name == "torch-cuda"
    assert len(list(compiled.glob("*.so"))) == 1
    assert not list(triton.glob("*.so"))


def test_sources_import_what_is_allowed_in_syntax_that_is_allowed(variant):
    sources = list(variant.rglob("*.py"))
    assert len(sources) > 20
    for path in sources:
        for node in ast.walk(ast.parse(path.read_text(), feature_version=(3, 9))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.level == 0:
                names.append(node.module)
            assert {name.partition(".")[0] for name in names} <= ALLOWED, path.name


def test_metadata_is_what_the_loader_reads(kernels, variant):
    rust = pytest.importorskip("kernels._rust")
    metadata = rust.Metadata.read_from_file(variant / "metadata.json")
    given = json.loads((variant / "metadata.json").read_text())
    assert metadata.id == given["id"]
    assert metadata.name.python_name == "tokenprune_kernels"
    digest = rust.Digest.hash_variant(rust.DigestAlgorithm.SHA256, variant)
    assert dict(digest.files) == given["digest"]["files"]


@pytest.mark.parametrize("backend", ["cpu", "cuda"])
def test_build_files_are_what_the_builder_reads(kernels, backend):
    rust = pytest.importorskip("kernels._rust")
    build = rust.Build.open(LAYOUT / backend)
    assert [str(each) for each in build.general.backends] == [backend]
    text = (LAYOUT / backend / "build.toml").read_text()
    listed = {line.strip().strip('",') for line in text.splitlines() if line.strip().startswith('"csrc/')}
    sources = (LAYOUT / backend).glob("csrc/**/*.*")
    assert listed == {path.relative_to(LAYOUT / backend).as_posix() for path in sources}


@pytest.mark.parametrize("method", METHODS)
def test_the_compiled_kernel_selects(kernel, method):
    x, weight = gaussian_tokens(60, 24), random_weight(60)
    given = (x,) if method == "divprune" else (x, weight)
    found = getattr(kernel, method)(*given, 12)
    assert found.tolist() == oracle(method, x, weight, 12)[0].tolist()
    assert found.tolist() == getattr(tokenprune_kernels, method)(*given, 12).tolist()


def test_its_operators_are_its_own(kernel):
    (identifier,) = (name for name in sys.modules if name.startswith("_tokenprune_kernels_cpu_") and "." not in name)
    assert sys.modules[identifier] is kernel
    x = gaussian_tokens(20, 8)
    own = getattr(torch.ops, identifier).divprune
    assert own(x, 5).tolist() == torch.ops.tokenprune.divprune(x, 5).tolist()
    native = kernel.build_info()["backends"]["native"]
    assert native["unavailable"]["cpu"] is None
    assert Path(native["file"]).parent in VARIANTS
    assert native["file"] != tokenprune_kernels.build_info()["backends"]["native"]["file"]
    assert torch.compile(kernel.divprune, backend="eager", fullgraph=True)(x, 5).tolist() == own(x, 5).tolist()


def test_all_public_names_are_there(kernel):
    assert set(kernel.__all__) < set(tokenprune_kernels.__all__)
    assert all(hasattr(kernel, name) for name in kernel.__all__)
    assert kernel.verify.__name__.startswith("_tokenprune_kernels_cpu_")


def test_local_kernels_stands_in_for_the_hub(kernels):
    code = """
import kernels, torch
kernel = kernels.get_kernel("someone/tokenprune-kernels", version=0, backend="cpu")
print(kernel.divprune(torch.eye(4), 3).tolist())
"""
    result = python(code, LOCAL_KERNELS=f"someone/tokenprune-kernels={LAYOUT}", HF_HUB_OFFLINE="1")
    assert result.stdout == "[0, 1, 2]\n", result.stderr


def load(variant, *, older):
    """Code that imports a variant by its path, as a loader does."""
    path = variant / "tokenprune_kernels" if older else variant
    return f"""
import importlib.util, sys, torch
spec = importlib.util.spec_from_file_location("loaded", {str(path / "__init__.py")!r})
kernel = sys.modules["loaded"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(kernel)
print(kernel.divprune(torch.eye(4), 3).tolist(), sorted(kernel.__all__) == kernel.__all__)
"""


@pytest.mark.parametrize("older", [False, True])
def test_a_variant_is_imported_by_its_path(variant, older):
    if variant.name == "torch-cuda":
        pytest.importorskip("triton")
    environment = {"TRITON_INTERPRET": "1", "TOKENPRUNE_BACKEND": "triton"} if variant.name == "torch-cuda" else {}
    result = python(load(variant, older=older), **{**os.environ, **environment})
    assert result.stdout == "[0, 1, 2] True\n", result.stderr
