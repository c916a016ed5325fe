"""Kernels that try one thing alone: the choice of candidates, and the barrier of the whole grid."""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl

from bench.gpu.process import WrongResultError
from tokenprune_kernels.backends.triton import runtime
from tokenprune_kernels.backends.triton.kernels import state
from tokenprune_kernels.backends.triton.kernels.candidates import choose_candidates
from tokenprune_kernels.backends.triton.kernels.grid import grid_barrier
from tokenprune_kernels.backends.triton.kernels.scores import PICKED

MANY_TIES, FEW_TIES = 5, 2**30
TIMED_ROUNDS, TIMES = 100, 20
"""Other processes use the device in turns. The shortest of many short launches lies within one turn."""


@triton.jit(do_not_specialize=["length", "max_candidates"])
def choice_kernel(keys, candidate_rows, segment_state, length, max_candidates):
    """One program chooses candidates among all rows."""
    choose_candidates(keys, candidate_rows, segment_state, length, max_candidates, PICKED, 0)


@triton.jit(do_not_specialize=["programs", "rounds"])
def barrier_kernel(slots, arrival_counter, stale, programs, rounds, PROGRAMS: tl.constexpr):
    """In each round, every program writes a slot, waits for all programs, and counts the slots that are not new."""
    program = tl.program_id(0)
    each = tl.arange(0, PROGRAMS)  # [PROGRAMS]
    seen = tl.full([], 0, tl.int32)
    arrived = tl.full([], 0, tl.int32)
    for round_number in range(1, rounds + 1):
        tl.store(slots + program, round_number)
        arrived += programs
        grid_barrier(arrival_counter, arrived)
        slot = tl.load(slots + each, mask=each < programs, other=round_number)
        seen += tl.sum((slot != round_number).to(tl.int32), axis=0)
        arrived += programs
        grid_barrier(arrival_counter, arrived)
    tl.atomic_add(stale, seen, sem="relaxed")


def choose(num_warps: int, values: int, device: str, length: int = 1_500, max_candidates: int = 64) -> dict[str, Any]:
    """Chooses candidates among rows with random keys of so many values, and checks them.

    Raises:
        WrongResultError: the rows are not those with the best keys.
    """
    keys = torch.randint(values, (length,), generator=torch.Generator().manual_seed(0), dtype=torch.int32)
    rows = torch.full((length,), -1, dtype=torch.int32, device=device)
    columns = torch.zeros(state.STATE_COLUMNS.value, dtype=torch.int32, device=device)
    choice_kernel[(1,)](keys.to(device), rows, columns, length, max_candidates, num_warps=num_warps)
    count = int(columns[state.CANDIDATE_COUNT.value])
    chosen, outside_key = rows[:count].cpu().long(), int(columns[state.BEST_OUTSIDE_KEY.value])
    outside_row = int(columns[state.BEST_OUTSIDE_ROW.value])
    if not max_candidates // 2 < count <= max_candidates:
        raise WrongResultError(f"{count} candidates instead of {max_candidates // 2 + 1} to {max_candidates}")
    best = sorted(range(length), key=lambda row: (-int(keys[row]), row))
    if chosen.tolist() != sorted(best[:count]):
        raise WrongResultError(f"the {count} candidates are not the best rows")
    if (outside_key, outside_row) != (int(keys[best[count]]), best[count]):
        raise WrongResultError(f"best row outside {outside_row} instead of {best[count]}")
    return {}


def hold_barrier(rounds: int, device: str) -> dict[str, Any]:
    """Runs rounds of two barriers each, in a cooperative launch of one program a multiprocessor.

    Returns:
        The nanoseconds of a barrier, on a GPU.

    Raises:
        WrongResultError: a program read a slot from before the barrier.
    """
    # The interpreter runs programs one after another, so that a second one would never arrive.
    programs = runtime.multiprocessors(torch.device("cuda", torch.cuda.current_device())) if device == "cuda" else 1
    slots, arrival_counter, stale = (torch.zeros(size, dtype=torch.int32, device=device) for size in (programs, 1, 1))
    options: dict[str, Any] = {"launch_cooperative_grid": True} if device == "cuda" else {}

    def run(rounds: int) -> None:
        arrival_counter.zero_()
        barrier_kernel[(programs,)](
            slots,
            arrival_counter,
            stale,
            programs,
            rounds,
            PROGRAMS=triton.next_power_of_2(programs),
            num_warps=4,
            **options,
        )

    run(rounds)
    facts, milliseconds = {}, []
    for _ in range(TIMES if device == "cuda" else 0):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        run(TIMED_ROUNDS)
        end.record()
        torch.cuda.synchronize()
        milliseconds.append(start.elapsed_time(end))
    if milliseconds:
        facts["nanoseconds_a_barrier"] = 1e6 * min(milliseconds) / (2 * TIMED_ROUNDS)
    if int(stale) != 0:
        raise WrongResultError(f"{int(stale)} of {programs * programs * rounds} slots were read as before the barrier")
    return facts
