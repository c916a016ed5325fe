"""The declaration against the contract's schemas, and against what the extension was built from."""

import inspect

import pytest
import torch

from tokenprune_kernels import declaration

CONTRACT = {
    "divprune": "Tensor x, SymInt k",
    "mmr": "Tensor x, Tensor relevance, SymInt k, float lam=0.5",
    "idpruner": "Tensor x, Tensor importance, SymInt k, float lam=0.5",
    "dpp": "Tensor x, Tensor relevance, SymInt k",
    "divprune_varlen": "Tensor x, Tensor cu_seqlens, Tensor cu_k, SymInt total_k, SymInt max_seqlen",
    "mmr_varlen": (
        "Tensor x, Tensor relevance, Tensor cu_seqlens, Tensor cu_k, SymInt total_k, SymInt max_seqlen, float lam=0.5"
    ),
    "idpruner_varlen": (
        "Tensor x, Tensor importance, Tensor cu_seqlens, Tensor cu_k, SymInt total_k, SymInt max_seqlen, float lam=0.5"
    ),
    "dpp_varlen": "Tensor x, Tensor relevance, Tensor cu_seqlens, Tensor cu_k, SymInt total_k, SymInt max_seqlen",
}


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
    assert set(declaration.OPERATORS) == set(CONTRACT)


@pytest.mark.parametrize("name", CONTRACT)
def test_defaults_and_documentation(name):
    packet = getattr(torch.ops.tokenprune, name)
    declared = inspect.signature(declaration.OPERATORS[name]).parameters
    assert list(declared) == [argument.name for argument in packet.default._schema.arguments]
    for argument in packet.default._schema.arguments:
        default = declared[argument.name].default
        assert (argument.default_value if argument.has_default_value() else inspect.Parameter.empty) == default
    assert packet.__doc__ == declaration.OPERATORS[name].__doc__
    assert packet.__doc__.strip()
