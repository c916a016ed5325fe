"""Barriers between the programs of a cooperative launch, and counters of the programs that have arrived."""

import triton
import triton.language as tl


@triton.jit
def grid_barrier(arrival_counter, target):
    """Waits until ``target`` programs, modulo 2^32, have arrived. All then see what each of them wrote before.

    One thread of a program does the atomics. The barriers of its block extend their acquire and release to the others.
    """
    tl.debug_barrier()
    arrived = tl.atomic_add(arrival_counter, 1, sem="acq_rel", scope="gpu") + 1
    while arrived - target < 0:
        arrived = tl.atomic_add(arrival_counter, 0, sem="acquire", scope="gpu")
    tl.debug_barrier()


@triton.jit
def last_to_arrive(arrival_counter, programs):
    """Counts this program in. Returns True in the last of ``programs``, which then sees what the others wrote before.

    The last one resets the counter to 0 for the next use.
    """
    tl.debug_barrier()
    last = tl.atomic_add(arrival_counter, 1, sem="acq_rel", scope="gpu") == programs - 1
    if last:
        tl.store(arrival_counter, 0)
    tl.debug_barrier()
    return last
