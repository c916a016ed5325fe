"""The operators and their peers, each prepared for a task: a call from tokens to indices.

Conversions that a user's tokens need are inside the timed call; a first pick or a relevance that is asked for is not.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import itertools
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

import tokenprune_kernels  # noqa: F401  registers torch.ops.tokenprune
from bench.cases import LAM, Case, Task
from bench.inputs import BATCH, PACKED, SINGLE
from python_ref import published
from python_ref.idpruner import relevance_of
from python_ref.similarity import finite_rows
from tokenprune_kernels.methods import METHODS

Select = Callable[[Tensor], Tensor | list[Tensor]]
"""From tokens to the indices that an operator returns, or to a list of each item's picks."""

HALF, FULL = (torch.bfloat16, torch.float16), (torch.float32,)


@dataclass(frozen=True)
class Implementation:
    """One way to select.

    Attributes:
        methods: what it can do.
        prepare: from a task to the call that is timed.
        most_rows: above this N a call takes seconds, and it is left out.
        module: what must be installed.
        dtypes: what it differs from another implementation on.
        layouts: the inputs that it is compared on.
        selects: whether it picks rows at all.
        compiled: whether ``torch.compile`` has to unroll its k steps. It then runs on the first input alone, in a
            process of its own, which is stopped when it takes too long.
    """

    name: str
    methods: tuple[str, ...]
    prepare: Callable[[Task], Select]
    most_rows: int | None = None
    module: str | None = None
    dtypes: tuple[torch.dtype, ...] = HALF + FULL
    layouts: tuple[str, ...] = (SINGLE,)
    selects: bool = True
    compiled: bool = False

    def applies(self, case: Case) -> bool:
        """Whether it can be compared on the case."""
        return case.tokens.layout in self.layouts and case.method in self.methods and case.dtype in self.dtypes

    def left_out(self, case: Case) -> str:
        """Why it is not run on a case it applies to; empty when it is."""
        if self.most_rows is not None and case.tokens.longest > self.most_rows:
            return f"takes seconds above N = {self.most_rows:,}"
        if self.module is not None and importlib.util.find_spec(self.module) is None:
            return "is not installed"
        return ""


def operator(task: Task) -> Select:
    """This package."""
    if task.tokens.layout == PACKED:
        return _varlen_operator(task)
    select = getattr(torch.ops.tokenprune, task.method).default
    _, *rest = METHODS[task.method].arguments(None, task.weight, (task.k,), LAM)
    return lambda x: select(x, *rest)


def _varlen_operator(task: Task) -> Select:
    select = getattr(torch.ops.tokenprune, f"{task.method}_varlen").default
    cu_seqlens, cu_k = (
        torch.tensor(list(itertools.accumulate(counts, initial=0)), dtype=torch.int32, device=task.x.device)
        for counts in (task.tokens.counts, task.tokens.ks)
    )
    budget = (cu_seqlens, cu_k, sum(task.tokens.ks), task.tokens.longest)
    _, *rest = METHODS[task.method].arguments(None, task.weight, budget, LAM)
    return lambda x: select(x, *rest)


def each_item(loop: Callable[..., Tensor]) -> Callable[[Task], Select]:
    """Prepares calls of a loop, one item after the other."""

    def prepare(task: Task) -> Select:
        tokens, method = task.tokens, METHODS[task.method]
        weights = [None] * len(tokens.ks) if task.weight is None else tokens.items(task.weight)
        rest = [method.arguments(None, w, (k,), LAM)[1:] for w, k in zip(weights, tokens.ks, strict=True)]
        if tokens.layout == SINGLE:
            return lambda x: loop(x, *rest[0])
        return lambda x: [loop(item, *each) for item, each in zip(tokens.items(x), rest, strict=True)]

    return prepare


def single_calls(task: Task) -> Select:
    """This package, one call for each item of a batch."""
    return each_item(getattr(torch.ops.tokenprune, task.method).default)(task)


def running_minimum_in_float32(x: Tensor, k: int) -> Tensor:
    return published.running_minimum_divprune(x.float(), k)


def compiled(loop: Callable[..., Tensor]) -> Callable[[Task], Select]:
    """Prepares calls of a loop under ``torch.compile``."""
    return lambda task: each_item(torch.compile(loop, dynamic=False))(task)


def product(task: Task) -> Select:
    """A matrix product of the size of all similarities."""
    if task.tokens.layout == PACKED:
        return lambda x: [item @ item.mT for item in task.tokens.items(x)]
    return lambda x: x @ x.mT


def quickfps(task: Task) -> Select:
    """Farthest points among unit rows, from the right first pick: the Euclidean order is the cosine order there."""
    import torch_quickfps

    first = int(torch.ops.tokenprune.divprune(task.x, 1))
    return lambda x: torch_quickfps.sample_idx_baseline(F.normalize(x.float(), dim=-1), task.k, start_idx=first)


def quickfps_in_buckets(task: Task) -> Select:
    """Likewise, among buckets of rows: the way that the package recommends for wide rows on a GPU."""
    import torch_quickfps

    first = int(torch.ops.tokenprune.divprune(task.x, 1))
    return lambda x: torch_quickfps.sample_idx(F.normalize(x.float(), dim=-1), task.k, start_idx=first, low_d=8)


def pyversity(task: Task) -> Select:
    """MMR in NumPy, float32, similarities below 0 taken for 0; relevance given."""
    import pyversity

    relevance = task.weight
    if task.method == "idpruner":
        relevance = relevance_of(task.weight, finite_rows(task.x, task.weight))
    scores = relevance.numpy()
    return lambda x: torch.from_numpy(
        pyversity.mmr(x.float().numpy(), scores, task.k, diversity=1 - LAM).indices
    ).long()


def pyversity_dpp(task: Task) -> Select:
    """The DPP in NumPy, float32; the exponential that it takes of standardised scores is made to give the relevance."""
    import pyversity

    scores = task.weight.log().numpy()
    scale = 2 * float(scores.std())
    return lambda x: torch.from_numpy(
        pyversity.dpp(x.float().numpy(), scores, task.k, diversity=0.5, scale=scale).indices
    ).long()


def langchain(task: Task) -> Select:
    """MMR in NumPy, relevance formed from the query."""
    from langchain_core.vectorstores.utils import maximal_marginal_relevance

    query = task.query.numpy()
    return lambda x: torch.tensor(maximal_marginal_relevance(query, x.float().numpy(), lambda_mult=LAM, k=task.k))


OPERATOR = Implementation("tokenprune", tuple(METHODS), operator, layouts=(SINGLE, BATCH, PACKED))
PRODUCT = Implementation("x @ x.T alone", ("divprune",), product, layouts=(SINGLE, BATCH, PACKED), selects=False)
PUBLISHED_DIVPRUNE = Implementation("published DivPrune loop", ("divprune",), each_item(published.published_divprune))
RUNNING_MINIMUM = Implementation("running-minimum loop", ("divprune",), each_item(published.running_minimum_divprune))
RUNNING_MINIMUM_IN_FLOAT32 = Implementation(
    "running-minimum loop in float32", ("divprune",), each_item(running_minimum_in_float32), dtypes=HALF
)
PUBLISHED_IDPRUNER = Implementation("published IDPruner loop", ("idpruner",), each_item(published.published_idpruner))
DPP_LOOP = Implementation("DPP loop", ("dpp",), each_item(published.cholesky_dpp))
COMPILED = (
    Implementation(
        "running-minimum loop, torch.compile",
        ("divprune",),
        compiled(published.running_minimum_divprune),
        compiled=True,
    ),
    Implementation(
        "published IDPruner loop, torch.compile", ("idpruner",), compiled(published.published_idpruner), compiled=True
    ),
)

CPU_PEERS = (
    *COMPILED,
    dataclasses.replace(PUBLISHED_DIVPRUNE, most_rows=2_916),
    RUNNING_MINIMUM,
    RUNNING_MINIMUM_IN_FLOAT32,
    PUBLISHED_IDPRUNER,
    Implementation("torch-quickfps", ("divprune",), quickfps, most_rows=1_152, module="torch_quickfps"),
    Implementation("pyversity", ("idpruner", "mmr"), pyversity, most_rows=2_916, module="pyversity"),
    DPP_LOOP,
    Implementation("pyversity", ("dpp",), pyversity_dpp, most_rows=2_916, module="pyversity"),
    Implementation("langchain-core", ("mmr",), langchain, most_rows=576, module="langchain_core"),
    Implementation("one call for each item", ("divprune", "idpruner"), single_calls, layouts=(BATCH,)),
)
CUDA_PEERS = (
    PRODUCT,
    *(
        dataclasses.replace(each, layouts=(SINGLE, BATCH, PACKED))
        for each in (PUBLISHED_DIVPRUNE, RUNNING_MINIMUM, RUNNING_MINIMUM_IN_FLOAT32, PUBLISHED_IDPRUNER, DPP_LOOP)
    ),
    # Installed by torch-quickfps-cu130, for CUDA 13. torch-quickfps itself runs on CPUs alone.
    Implementation("torch-quickfps", ("divprune",), quickfps, module="torch_quickfps"),
    Implementation("torch-quickfps, buckets", ("divprune",), quickfps_in_buckets, module="torch_quickfps"),
    Implementation(
        "published DivPrune loop, torch.compile", ("divprune",), compiled(published.published_divprune), compiled=True
    ),
    *COMPILED,
)
