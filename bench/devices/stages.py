"""What the benchmark knows of the Triton backend: the form that a call takes, and its kernels in their order."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from bench.cases import Task
from bench.inputs import PACKED
from tokenprune_kernels.backends.triton import configs, operators, runtime

# The kernels whose launches end each stage of a form; what comes before the first is counted into it.
MATERIALISED = {"row norms": "row_norm_kernel", "similarity pass": "similarity_kernel", "greedy loop": "greedy_kernel"}
OUTLIERS = {
    "row norms": "row_norm_kernel",
    "first pick": "outlier_kernel",
    "lazy greedy rounds": "lazy_greedy_kernel",
}
CANDIDATES = {**OUTLIERS, "first pick": "first_pick_kernel"}
DPP = {"row norms": "row_norm_kernel", "picks": "dpp_kernel"}
FORMS = (MATERIALISED, OUTLIERS, CANDIDATES, DPP)


def stages_of(task: Task) -> dict[str, str]:
    """The stages of the form in which a call selects, and the kernel that ends each."""
    packed = task.tokens.layout == PACKED
    planned = operators.plan(
        task.method,
        task.x.shape,
        task.x.dtype,
        segments=len(task.tokens.ks) if packed else None,
        max_seqlen=task.tokens.longest if packed else None,
    )
    return next(form for form in FORMS if set(form.values()) <= set(planned.kernels))


@contextlib.contextmanager
def launches_up_to(last: str, stages: dict[str, str]) -> Iterator[None]:
    """Leaves out the launches of the kernels after the given one; what these would have written is not written."""
    later = list(stages.values())[list(stages.values()).index(last) + 1 :]
    with runtime.settings(skipped_kernels=frozenset(later)):
        yield


def candidate_count(element_size: int, longest: int) -> int:
    """How many candidates a round has."""
    return configs.candidate_count(element_size, longest)
