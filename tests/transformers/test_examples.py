"""The docstrings of the public names: their examples run, and they name every method."""

import doctest
import importlib

import pytest

from tokenprune_kernels.methods import METHODS

pytest.importorskip("transformers")

PUBLIC = ("pruning.prune_inputs", "enabling.enable_pruning", "pruned_inputs.PrunedInputs")


@pytest.mark.parametrize(
    "name",
    [
        *(f"tokenprune_kernels.integrations.transformers.{name}" for name in PUBLIC),
        "tokenprune_kernels.vision_selector.VisionSelectorScorer",
    ],
)
def test_an_example_gives_what_it_says(name):
    module = importlib.import_module(name.rpartition(".")[0])
    public = getattr(module, name.rpartition(".")[2])
    tests = [test for test in doctest.DocTestFinder().find(public, globs=vars(module).copy()) if test.examples]
    assert tests
    for test in tests:
        assert doctest.DocTestRunner().run(test).failed == 0


def test_every_method_is_documented():
    pruning = importlib.import_module("tokenprune_kernels.integrations.transformers.pruning")
    for method in METHODS:
        assert f'"{method}"' in pruning.prune_inputs.__doc__
