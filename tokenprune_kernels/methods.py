"""The selection methods: what each takes beside the tokens and the budget, and where it was published."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Method:
    """What distinguishes the arguments of one method from those of another."""

    weight: str | None
    """The argument with one value per token, ``"relevance"`` or ``"importance"``; None where tokens are enough."""
    has_lam: bool
    """Whether ``lam``, the weight of that argument against diversity, is an argument."""
    source: str
    """The publication, with the section that has the rule."""

    def arguments(self, x: Any, weight: Any, budget: tuple[Any, ...], lam: float) -> tuple[Any, ...]:
        """The positional arguments of the method's operators.

        Args:
            x: tokens.
            weight: ignored where the method has none.
            budget: ``(k,)``, or ``(cu_seqlens, cu_k, total_k, max_seqlen)`` of the varlen operator.
            lam: ignored where the method has none.
        """
        return (x, *(() if self.weight is None else (weight,)), *budget, *((lam,) if self.has_lam else ()))


METHODS = {
    "divprune": Method(None, False, "Alvar et al., CVPR 2025, arXiv 2503.02175, section 3"),
    "mmr": Method("relevance", True, "Carbonell & Goldstein, SIGIR 1998, section 2"),
    "idpruner": Method("importance", True, "Tan et al., arXiv 2602.13315, section 3"),
    "dpp": Method("relevance", False, "Chen et al., NeurIPS 2018, arXiv 1709.05135, section 4"),
}
