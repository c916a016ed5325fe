"""The calls that the stages make: a selection on a small or a main input, in a given form, judged."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

import tokenprune_kernels
from bench import inputs, judge
from bench.cases import Case, Task, task
from bench.gpu.process import WrongResultError
from bench.inputs import BATCH, PACKED, Tokens
from bench.peers import OPERATOR
from tokenprune_kernels.backends.triton import operators, runtime

METHODS_WITH_FORMS = ("divprune", "mmr", "idpruner")
FORMS = ("materialised", "lazy_greedy")


@dataclass(frozen=True)
class Call:
    """A selection in a given form; None leaves the choice to the backend."""

    case: Case
    form: str | None = None

    @property
    def name(self) -> str:
        case = self.case
        form = f", {self.form}" if self.form else ""
        return f"{case.method}{form}, {case.tokens.layout} {case.tokens.size}, {case.dtype_name}"

    @contextlib.contextmanager
    def settings(self) -> Iterator[None]:
        """Has the Triton backend select in the form."""
        with tokenprune_kernels.use_backend("triton"), runtime.settings(form=self.form):
            yield


def small_calls(count: int = 130, depth: int = 256, k: int = 13) -> list[Call]:
    """Each form of each method on few rows: alone, as a batch, packed, in each width of an element."""
    half_count, half_k = count // 2, k // 2
    single = inputs.clustered(count, ks=(k,), depth=depth, clusters=9)
    batch = inputs.clustered(half_count, half_count, ks=(half_k, half_k), depth=depth, clusters=9, layout=BATCH)
    packed = inputs.clustered(count, 3, half_count, ks=(k, 1, half_k), depth=depth, clusters=9, layout=PACKED)
    odd = inputs.clustered(half_count, ks=(half_k,), depth=33, clusters=9)
    half, full = torch.bfloat16, torch.float32
    forms = [(method, form) for method in METHODS_WITH_FORMS for form in FORMS] + [("dpp", None)]
    inputs_of = {
        "divprune": ((single, half), (packed, half), (batch, half), (single, full), (odd, half)),
        "mmr": ((single, half), (packed, full)),
        "idpruner": ((single, half), (packed, half)),
        "dpp": ((single, half), (packed, half), (single, full)),
    }
    return [Call(Case(tokens, method, dtype), form) for method, form in forms for tokens, dtype in inputs_of[method]]


def main_calls() -> list[Call]:
    """The sizes that the targets of speed are about."""
    sizes = ((576, 58), (2_880, 288), (16_384, 1_638))
    single = [inputs.clustered(count, ks=(k,), depth=4_096) for count, k in sizes]
    batch = inputs.clustered(*(576,) * 64, ks=(58,) * 64, depth=4_096, layout=BATCH)
    return [
        *(Call(Case(tokens, method, torch.bfloat16)) for tokens in single for method in ("divprune", "idpruner")),
        Call(Case(batch, "divprune", torch.bfloat16)),
        *(Call(Case(single[0], method, torch.bfloat16)) for method in ("mmr", "dpp")),
    ]


def judged(call: Call, device: str) -> dict[str, Any]:
    """Runs a call twice, and judges it by the float64 replay.

    Raises:
        WrongResultError: the picks are wrong, or not the same twice.
    """
    given = task(call.case, device)
    select = OPERATOR.prepare(given)
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    with call.settings():
        first, second = (_picks(given, select) for _ in range(2))
    wrong = judge.mistake_of_items(given.method, given.tokens, given.x, first, given.weight)
    if not wrong and not judge.same(first, second):
        wrong = "the second call picks otherwise than the first one"
    if wrong:
        raise WrongResultError(wrong)
    return {}


def _picks(given: Task, select: Callable[[torch.Tensor], Any]) -> list[torch.Tensor]:
    return [picks.cpu() for picks in given.tokens.picks(select(given.x))]


def kernels_of(call: Call) -> tuple[str, ...]:
    """The names of the kernels that a call launches."""
    tokens, dtype = call.case.tokens, call.case.dtype
    packed = tokens.layout == PACKED
    with runtime.settings(form=call.form):
        planned = operators.plan(
            call.case.method,
            shape_of(tokens),
            dtype,
            segments=len(tokens.ks) if packed else None,
            max_seqlen=tokens.longest if packed else None,
        )
    return planned.kernels


def shape_of(tokens: Tokens) -> Sequence[int]:
    """The shape of the tokens of an input."""
    if tokens.layout == PACKED:
        return (sum(tokens.counts), tokens.depth)
    items = (len(tokens.counts),) if tokens.layout == BATCH else ()
    return (*items, tokens.counts[0], tokens.depth)
