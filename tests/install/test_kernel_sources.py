"""The sources of a kernel in the layout of Hugging Face kernels hold all that they import."""

import ast

import pytest

from tests.install import kernel_layout
from tests.support.subprocess import python

pytestmark = pytest.mark.skipif(not (kernel_layout.ROOT / "csrc").exists(), reason="needs the source tree")


@pytest.fixture(params=kernel_layout.BACKENDS)
def package(request, tmp_path):
    kernel_layout.project(tmp_path, request.param, "a_namespace_of_its_own")
    return tmp_path / "torch-ext" / "tokenprune_kernels"


@pytest.mark.slow
def test_they_can_be_imported_beside_the_package(package):
    """Without the compiled operators, which an import does not need."""
    code = f"""
import importlib.util, sys
import tokenprune_kernels
spec = importlib.util.spec_from_file_location("kernel", {str(package / "__init__.py")!r})
kernel = sys.modules["kernel"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(kernel)
print(kernel.verify.verify_trace.__name__, kernel.declaration.NAMESPACE)
"""
    result = python(code)
    assert result.stdout == "verify_trace a_namespace_of_its_own\n", result.stderr


def test_they_leave_out_what_asks_for_other_packages(package):
    names = {path.relative_to(package).as_posix() for path in package.rglob("*.py")}
    assert {
        "selectors.py",
        "calls.py",
        "backends/native.py",
        "backends/triton/kernels/grid.py",
        "verify/judge.py",
    } <= names
    assert not [name for name in names if name.startswith(("integrations/", "analysis/", "distributed/"))]


def test_every_module_that_they_import_is_there(package):
    for path in package.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.level:
                module = path.parents[node.level - 1].joinpath(*(node.module or "").split("."))
                assert module.with_suffix(".py").exists() or (module / "__init__.py").exists(), (path.name, node.module)
