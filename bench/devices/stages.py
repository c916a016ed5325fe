"""What the benchmark knows of the Triton backend: the form that a call takes, and its kernels in their order."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

from tokenprune_kernels.backends.triton import configs, launch

# The kernels whose launches end each stage of a form; what comes before the first is counted into it.
MATERIALISED = {"row norms": "row_norm_kernel", "similarity pass": "similarity_kernel", "greedy loop": "greedy_kernel"}
OUTLIERS = {
    "row norms": "row_norm_kernel",
    "first pick": "outlier_kernel",
    "candidate blocks": "candidate_kernel",
}
CANDIDATES = {**OUTLIERS, "first pick": "first_pick_kernel"}
DPP = {"row norms": "row_norm_kernel", "picks": "dpp_kernel"}
FORMS = (MATERIALISED, OUTLIERS, CANDIDATES, DPP)


def launched(call: Callable[[], object]) -> list[str]:
    """The names of the kernels that a call launches, none of which runs."""
    names: list[str] = []
    with mock.patch.object(launch, "_run", lambda kernel, *args, **options: names.append(kernel.__name__)):
        call()
    return names


def stages_of(call: Callable[[], object]) -> dict[str, str]:
    """The stages of the form in which a call selects; none where it launches no kernels, as on another backend."""
    names = set(launched(call))
    return next((form for form in FORMS if set(form.values()) <= names), {})


@contextlib.contextmanager
def launches_up_to(last: str, stages: dict[str, str]) -> Iterator[None]:
    """Leaves out the launches of the kernels after the given one; what these would have written is not written."""
    later = list(stages.values())[list(stages.values()).index(last) + 1 :]
    run = launch._run

    def run_unless_later(kernel: Any, *args: Any, **options: Any) -> None:
        if kernel.__name__ not in later:
            run(kernel, *args, **options)

    with mock.patch.object(launch, "_run", run_unless_later):
        yield


def candidate_count(element_size: int, longest: int) -> int:
    """How many candidates a round has."""
    return configs.candidate_count(element_size, longest)
