"""The selection methods: what each takes beside the tokens and the budget, and where it was published."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor


@dataclass(frozen=True)
class Method:
    """What distinguishes the arguments of one method from those of another."""

    weight: str | None
    """The argument with one value per token, ``"relevance"`` or ``"importance"``; None where tokens are enough."""
    has_lam: bool
    """Whether ``lam``, the weight of that argument against diversity, is an argument."""
    has_initial: bool
    """Whether ``initial``, rows that are selected already, is an argument of the operator on batches."""
    source: str
    """The publication, with the section that has the rule."""

    def arguments(
        self, x: Any, weight: Any, budget: tuple[Any, ...], lam: float, initial: Any = None
    ) -> tuple[Any, ...]:
        """The positional arguments of the method's operators.

        Args:
            x: tokens.
            weight: ignored where the method has none.
            budget: ``(k,)``, or ``(cu_seqlens, cu_k, total_k, max_seqlen)`` of the varlen operator.
            lam: ignored where the method has none.
            initial: left out where it is None, the default of the operators.
        """
        given = (() if self.weight is None else (weight,)), budget, ((lam,) if self.has_lam else ())
        return (x, *(each for part in given for each in part), *(() if initial is None else (initial,)))


METHODS = {
    "divprune": Method(None, False, True, "Alvar et al., CVPR 2025, arXiv 2503.02175, section 3"),
    "mmr": Method("relevance", True, True, "Carbonell & Goldstein, SIGIR 1998, section 2"),
    "idpruner": Method("importance", True, True, "Tan et al., arXiv 2602.13315, section 3"),
    "dpp": Method("relevance", False, False, "Chen et al., NeurIPS 2018, arXiv 1709.05135, section 4"),
}


def check_method(name: str, method: str, weights: Mapping[str, Any], lam: float | None) -> None:
    """Raises in the name of `name` unless a call gives a method its arguments and no others.

    Args:
        name: the function that was called.
        method: what it was given as the method.
        weights: what it was given as ``relevance`` and as ``importance``, None where nothing.
        lam: what it was given as lam.

    Raises:
        ValueError: for an unknown method, a weight that is missing or surplus, or a lam that the method does not have.
    """
    if method not in METHODS:
        raise ValueError(f"{name}: expected method to be one of {', '.join(METHODS)}, got {method!r}")
    for argument, weight in weights.items():
        needed = argument == METHODS[method].weight
        if needed and weight is None:
            raise ValueError(f"{name}: expected {argument} to be a tensor with method {method!r}, got None")
        if not needed and weight is not None:
            got = "a tensor" if isinstance(weight, Tensor) else weight
            raise ValueError(f"{name}: expected {argument} to be None with method {method!r}, got {got}")
    if lam is not None and not METHODS[method].has_lam:
        raise ValueError(f"{name}: expected lam to be None with method {method!r}, got {lam}")
