"""The calls that the stages make: a selection on a small or a main input, in a given form, judged."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

import tokenprune_kernels
from bench import inputs, judge
from bench.cases import Case, Task, cuda_cases, task
from bench.gpu.process import WrongResultError
from bench.inputs import BATCH, PACKED, Tokens
from bench.peers import OPERATOR
from tokenprune_kernels.backends.triton import operators, runtime

METHODS_WITH_FORMS = ("divprune", "mmr", "idpruner")
FORMS = ("materialised", "lazy_greedy")
MAIN_CASES = 16
"""How many cases of the benchmark are compiled ahead."""

CALLS = 4
"""The third call is the first that is made from a record."""


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
        """Has the Triton backend select in the form. Without one, calls are recorded, as those of users are."""
        form = runtime.settings(form=self.form) if self.form else contextlib.nullcontext()
        with tokenprune_kernels.use_backend("triton"), form:
            yield


def small_calls(count: int = 130, depth: int = 256, k: int = 13) -> list[Call]:
    """Each form of each method on few rows: alone, as a batch, packed, in each width of an element. Then no form."""
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
    return [
        *(Call(Case(tokens, method, dtype), form) for method, form in forms for tokens, dtype in inputs_of[method]),
        *(Call(Case(tokens, method, half)) for method in METHODS_WITH_FORMS for tokens in (single, packed)),
    ]


def main_calls() -> list[Call]:
    """The first cases of the benchmark."""
    return [Call(case) for case in cuda_cases()[:MAIN_CASES]]


def judged(call: Call, device: str) -> dict[str, Any]:
    """Makes a call several times, and judges it by the float64 replay. Returns what is known of its kernels.

    Raises:
        WrongResultError: the picks are wrong, or not always the same.
    """
    made = task(call.case)  # on the CPU, where the same tokens can be made again without the device
    weight = None if made.weight is None else made.weight.to(device)
    given = replace(made, x=made.x.to(device), weight=weight, query=None)
    select = OPERATOR.prepare(given)
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    with call.settings():
        first, *others = (_picks(given, select) for _ in range(CALLS))
    wrong = judge.mistake_of_items(given.method, given.tokens, given.x, first, given.weight)
    for number, picks in enumerate(others, 2):
        if not wrong and not judge.same(first, picks):
            wrong = f"call {number} picks otherwise than the first one"
    if wrong:
        raise WrongResultError(wrong, kernel_facts())
    return kernel_facts()


def kernel_facts() -> dict[str, str]:
    """What the compiler made of each kernel that this process has launched, by its name."""
    facts = {}
    for bucket, compiled in runtime._handles.items():
        ptx = hashlib.sha256(compiled.asm["ptx"].encode()).hexdigest()[:12]
        sizes = f"{compiled.n_regs} registers, {compiled.n_spills} spills, {compiled.metadata.shared} B shared"
        facts[bucket[0].__name__] = f"PTX {ptx}, {sizes}"
    return facts


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
