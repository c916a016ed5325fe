"""Published selection loops in the place of the operators: what exactness is worth in answers."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from python_ref import published
from tokenprune_kernels.integrations.row_selection import select_rows
from tokenprune_kernels.integrations.transformers import pruning

RATIOS = (0.25, 0.1)
_DIVPRUNE = {"method": "divprune"}
_IDPRUNER = {"method": "idpruner", "importance": "cls_attention"}
_DPP = {"method": "dpp", "relevance": "cls_attention"}


@dataclass(frozen=True)
class Instead:
    """Another computation of a method's selection.

    Attributes:
        name: for the table.
        of: the name of the method in ``methods``.
        options: those of ``prune_inputs``.
        loop: takes one picture's tokens, its weights if the method has some, and k; None for the operator.
        dtype: of the tokens that it is given.
    """

    name: str
    of: str
    options: dict[str, Any]
    loop: Callable[..., Tensor] | None
    dtype: torch.dtype


def _all() -> Iterator[Instead]:
    for dtype in (torch.float32, torch.bfloat16):
        name = str(dtype).removeprefix("torch.")
        for of, options, loops in (
            (
                "DivPrune",
                _DIVPRUNE,
                {
                    "published loop": published.published_divprune,
                    "running-minimum loop": published.running_minimum_divprune,
                },
            ),
            ("IDPruner, class attention", _IDPRUNER, {"published loop": published.published_idpruner}),
            ("DPP, class attention", _DPP, {"published loop": published.cholesky_dpp}),
        ):
            for which, loop in loops.items():
                yield Instead(f"{of}: {which} in {name}", of, options, loop, dtype)
            if dtype != torch.float32:  # the method itself is the operator in float32
                yield Instead(f"{of}: operator in {name}", of, options, None, dtype)


INSTEAD = tuple(_all())


@contextlib.contextmanager
def selecting(instead: Instead) -> Iterator[None]:
    """Has ``prune_inputs`` select in this way inside the ``with`` block.

    The integration has no public place for another selection, so its own function is patched.
    """

    def select(
        x: Tensor, counts: list[int], kept_counts: list[int], method: str, weight: Tensor | None, lam: float | None
    ) -> Tensor:
        x = x.to(instead.dtype)
        if instead.loop is None:
            return select_rows(x, counts, kept_counts, method, weight, lam)
        starts = itertools.accumulate(counts, initial=0)
        picks = []
        for start, count, k in zip(starts, counts, kept_counts, strict=False):
            rows = slice(start, start + count)
            picks.append(start + instead.loop(x[rows], *(() if weight is None else (weight[rows],)), k))
        return torch.cat(picks)

    with mock.patch.object(pruning, "select_rows", select):
        yield
