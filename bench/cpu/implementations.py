"""The operators and their peers, each prepared for a task: a call that returns the indices.

Conversions that a user's tokens need are inside the timed call; a first pick or a relevance that is asked for is not.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

import tokenprune_kernels  # noqa: F401  registers torch.ops.tokenprune
from python_ref import published
from python_ref.idpruner import relevance_of
from python_ref.similarity import finite_rows

from .cases import LAM, Case, Task

Select = Callable[[], Tensor]


@dataclass(frozen=True)
class Implementation:
    """One way to select.

    Attributes:
        methods: what it can do.
        prepare: from a task to the call that is timed.
        most_rows: above this N a call takes seconds, and it is left out.
        module: what must be installed.
        dtypes: what it differs from another implementation on.
        batches: whether it takes batches, or single items; None for both.
    """

    name: str
    methods: tuple[str, ...]
    prepare: Callable[[Task], Select]
    most_rows: int | None = None
    module: str | None = None
    dtypes: tuple[torch.dtype, ...] = (torch.bfloat16, torch.float32)
    batches: bool | None = False

    def applies(self, case: Case) -> bool:
        """Whether it can be compared on the case."""
        if self.batches not in (None, case.tokens.items is not None):
            return False
        return case.method in self.methods and case.dtype in self.dtypes

    def left_out(self, case: Case) -> str:
        """Why it is not run on a case it applies to; empty when it is."""
        if self.most_rows is not None and case.tokens.count > self.most_rows:
            return f"takes seconds above N = {self.most_rows:,}"
        if self.module is not None and importlib.util.find_spec(self.module) is None:
            return "is not installed"
        return ""


def operator(task: Task) -> Select:
    """This package."""
    select = getattr(torch.ops.tokenprune, task.method).default
    if task.weight is None:
        return lambda: select(task.x, task.k)
    if task.method == "dpp":
        return lambda: select(task.x, task.weight, task.k)
    return lambda: select(task.x, task.weight, task.k, LAM)


def single_calls(task: Task) -> Select:
    """This package, one call for each item of a batch."""
    weights = [None] * len(task.x) if task.weight is None else list(task.weight)
    calls = [operator(Task(task.method, x, task.k, weight)) for x, weight in zip(task.x, weights, strict=True)]
    return lambda: torch.stack([call() for call in calls])


def published_divprune(task: Task) -> Select:
    return lambda: published.published_divprune(task.x, task.k)


def running_minimum(task: Task) -> Select:
    return lambda: published.running_minimum_divprune(task.x, task.k)


def running_minimum_in_float32(task: Task) -> Select:
    return lambda: published.running_minimum_divprune(task.x.float(), task.k)


def published_idpruner(task: Task) -> Select:
    return lambda: published.published_idpruner(task.x, task.weight, task.k, LAM)


def quickfps(task: Task) -> Select:
    """Farthest points among unit rows, from the right first pick: the Euclidean order is the cosine order there."""
    import torch_quickfps

    first = int(torch.ops.tokenprune.divprune(task.x, 1))
    return lambda: torch_quickfps.sample_idx_baseline(F.normalize(task.x.float(), dim=-1), task.k, start_idx=first)


def pyversity(task: Task) -> Select:
    """MMR in NumPy, float32, similarities below 0 taken for 0; relevance given."""
    import pyversity

    relevance = task.weight
    if task.method == "idpruner":
        relevance = relevance_of(task.weight, finite_rows(task.x, task.weight))
    scores = relevance.numpy()
    return lambda: torch.from_numpy(
        pyversity.mmr(task.x.float().numpy(), scores, task.k, diversity=1 - LAM).indices
    ).long()


def cholesky_dpp(task: Task) -> Select:
    return lambda: published.cholesky_dpp(task.x, task.weight, task.k)


def pyversity_dpp(task: Task) -> Select:
    """The DPP in NumPy, float32; the exponential that it takes of standardised scores is made to give the relevance."""
    import pyversity

    scores = task.weight.log().numpy()
    scale = 2 * float(scores.std())
    return lambda: torch.from_numpy(
        pyversity.dpp(task.x.float().numpy(), scores, task.k, diversity=0.5, scale=scale).indices
    ).long()


def langchain(task: Task) -> Select:
    """MMR in NumPy, relevance formed from the query."""
    from langchain_core.vectorstores.utils import maximal_marginal_relevance

    query = task.query.numpy()
    return lambda: torch.tensor(maximal_marginal_relevance(query, task.x.float().numpy(), lambda_mult=LAM, k=task.k))


OPERATOR = Implementation("tokenprune", ("divprune", "idpruner", "mmr", "dpp"), operator, batches=None)
PEERS = (
    Implementation("published DivPrune loop", ("divprune",), published_divprune, most_rows=2_916),
    Implementation("running-minimum loop", ("divprune",), running_minimum),
    Implementation(
        "running-minimum loop in float32", ("divprune",), running_minimum_in_float32, dtypes=(torch.bfloat16,)
    ),
    Implementation("published IDPruner loop", ("idpruner",), published_idpruner),
    Implementation("torch-quickfps", ("divprune",), quickfps, most_rows=1_152, module="torch_quickfps"),
    Implementation("pyversity", ("idpruner", "mmr"), pyversity, most_rows=2_916, module="pyversity"),
    Implementation("DPP loop", ("dpp",), cholesky_dpp),
    Implementation("pyversity", ("dpp",), pyversity_dpp, most_rows=2_916, module="pyversity"),
    Implementation("langchain-core", ("mmr",), langchain, most_rows=576, module="langchain_core"),
    Implementation("one call for each item", ("divprune", "idpruner"), single_calls, batches=True),
)


def for_case(case: Case) -> list[Implementation]:
    """The operator, then its peers on a case."""
    return [each for each in (OPERATOR, *PEERS) if each.applies(case)]
