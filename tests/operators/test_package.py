"""What importing the package loads, and what its modules and its source tree depend on."""

import ast
import sys
from pathlib import Path

import pytest

import python_ref
import tokenprune_kernels
from tests.support.subprocess import python
from tokenprune_kernels import methods
from tokenprune_kernels.verify import judge

PACKAGE = Path(tokenprune_kernels.__file__).parent
LAZY = ("baselines", "importance", "metrics", "verify")


def imported_modules(source):
    """The first names of the modules that a file imports, "." for those beside it."""
    for node in ast.walk(ast.parse(source.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield "." * node.level or node.module.partition(".")[0]


def test_modules_are_loaded_at_their_first_use():
    code = f"""
import sys, tokenprune_kernels
print([name for name in {LAZY} if f"tokenprune_kernels.{{name}}" in sys.modules], "transformers" in sys.modules)
print(set({LAZY}) <= set(dir(tokenprune_kernels)))
print(*(getattr(tokenprune_kernels, name).__name__ for name in {LAZY}))
"""
    names = " ".join(f"tokenprune_kernels.{name}" for name in LAZY)
    assert python(code).stdout.splitlines() == ["[] False", "True", names]


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match=r"^module 'tokenprune_kernels' has no attribute 'comparison'$"):
        _ = tokenprune_kernels.comparison


@pytest.mark.slow
def test_the_judge_runs_without_the_package_around_it():
    code = f"""
import importlib.util, sys, torch
torch.ones(1)
before = set(sys.modules)
place = {str(PACKAGE / "verify" / "__init__.py")!r}
spec = importlib.util.spec_from_file_location("verify", place, submodule_search_locations=[place.rpartition("/")[0]])
verify = sys.modules["verify"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(verify)
loaded = {{name.partition(".")[0] for name in set(sys.modules) - before}}
print(loaded - set(sys.stdlib_module_names))
print(bool(verify.verify_trace("divprune", torch.eye(3), torch.tensor([0, 1, 2]))))
"""
    result = python(code)
    assert result.stdout.split() == ["{'verify'}", "True"], result.stderr


@pytest.mark.parametrize(
    "source",
    [*(PACKAGE / "verify").glob("*.py"), *Path(python_ref.__file__).parent.glob("*.py")],
    ids=lambda path: f"{path.parent.name}/{path.name}",
)
def test_the_judge_and_the_oracle_import_torch_alone(source):
    assert set(imported_modules(source)) <= {".", "torch", *sys.stdlib_module_names}


def test_the_judge_knows_every_method():
    assert tuple(methods.METHODS) == judge._METHODS


@pytest.mark.parametrize("suffix", ["", "_varlen"])
def test_the_oracle_has_every_method(suffix):
    for method in methods.METHODS:
        assert callable(getattr(python_ref, method + suffix))
