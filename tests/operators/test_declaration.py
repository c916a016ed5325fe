"""The declaration against the contract, and against what the extension was built from."""

import inspect
import re
from pathlib import Path

import pytest
import torch

import tokenprune_kernels
from tokenprune_kernels import declaration
from tokenprune_kernels.methods import METHODS

TEXT = (Path(tokenprune_kernels.__file__).parent / "verify" / "CONTRACT.md").read_text()
CONTRACT = dict(re.findall(r"^\| `(\w+)` \| `(Tensor x.*)` \| `Tensor` \|$", TEXT, flags=re.MULTILINE))


def test_the_contract_has_every_method_in_both_forms():
    assert list(CONTRACT) == [*METHODS, *(f"{method}_varlen" for method in METHODS)]


@pytest.mark.parametrize("name", CONTRACT)
def test_the_table_of_methods_has_the_arguments_of_the_contract(name):
    method = METHODS[name.removesuffix("_varlen")]
    budget = ("cu_seqlens", "cu_k", "total_k", "max_seqlen") if name.endswith("_varlen") else ("k",)
    initial = "initial" if method.has_initial and budget == ("k",) else None
    arguments = method.arguments("x", method.weight, budget, "lam", initial)
    assert list(arguments) == [argument.split()[-1].partition("=")[0] for argument in CONTRACT[name].split(", ")]


@pytest.mark.parametrize("namespace", ["tokenprune", "tokenprune_native"])
@pytest.mark.parametrize("name", CONTRACT)
def test_schemas(namespace, name):
    packet = getattr(getattr(torch.ops, namespace), name)
    assert str(packet.default._schema) == f"{namespace}::{name}({CONTRACT[name]}) -> Tensor"
    assert str(packet.scores._schema) == (
        f"{namespace}::{name}.scores({CONTRACT[name]}) -> (Tensor indices, Tensor scores)"
    )
    assert packet.overloads() == ["default", "scores"]


def test_nothing_else_is_declared():
    assert list(declaration.OPERATORS) == list(CONTRACT)


@pytest.mark.parametrize("name", CONTRACT)
def test_defaults(name):
    packet = getattr(torch.ops.tokenprune, name)
    declared = inspect.signature(declaration.OPERATORS[name]).parameters
    assert list(declared) == [argument.name for argument in packet.default._schema.arguments]
    for argument in packet.default._schema.arguments:
        default = declared[argument.name].default
        assert (argument.default_value if argument.has_default_value() else inspect.Parameter.empty) == default


@pytest.mark.parametrize("name", CONTRACT)
def test_an_operator_is_documented_without_the_others(name):
    document = getattr(torch.ops.tokenprune, name).__doc__
    for section in ("Args:", "Returns:", "Raises:", "Takes O(", "Scores are", "Source: "):
        assert section in document
    for argument in inspect.signature(declaration.OPERATORS[name]).parameters:
        assert f"\n    {argument}: " in document
    assert "{" not in document.replace("L_{S+i}", "")
    assert max(map(len, document.splitlines())) <= 120
