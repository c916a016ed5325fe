"""The public docstrings: complete, and with examples that run."""

import doctest
import inspect

import pytest

import tokenprune_kernels
from tokenprune_kernels import baselines, distributed, importance, metrics, verify

FUNCTIONS = {
    f"{module.__name__}.{name}": function
    for module in (tokenprune_kernels, baselines, distributed, importance, metrics, verify)
    for name, function in vars(module).items()
    if inspect.isfunction(function) and not name.startswith("_")
    if module is tokenprune_kernels or function.__module__.startswith(module.__name__)
}


def test_every_public_function_is_found():
    modules = {"baselines", "distributed", "importance", "metrics", "verify"}
    public = set(tokenprune_kernels.__all__) - modules - {"__version__"}
    assert {f"tokenprune_kernels.{name}" for name in public} < set(FUNCTIONS)
    assert {f"tokenprune_kernels.verify.{name}" for name in verify.__all__} - set(FUNCTIONS) == {
        "tokenprune_kernels.verify.Verdict"
    }
    assert len(FUNCTIONS) == len(public) + 8 + 3 + 1 + 8 + 2


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_docstring_describes_every_argument_and_the_result(name):
    document = inspect.getdoc(FUNCTIONS[name])
    parameters = list(inspect.signature(FUNCTIONS[name]).parameters)
    assert ("Args:" in document) == bool(parameters)
    for parameter in parameters:
        assert f"\n    {parameter}: " in document
    assert ("Returns:" in document) == (inspect.signature(FUNCTIONS[name]).return_annotation != "None")
    assert "\nExample:\n" in document


@pytest.mark.parametrize("name", FUNCTIONS)
def test_an_example_runs(name):
    (test,) = doctest.DocTestFinder(recurse=False).find(FUNCTIONS[name], name, module=False, globs={})
    assert test.examples
    report = []
    doctest.DocTestRunner().run(test, out=report.append)
    assert not report, "".join(report)
