"""How the programs of a grid wait for one another."""

import triton
import triton.language as tl


@triton.jit
def grid_barrier(arrivals, target):
    """Waits until ``target`` programs, modulo 2^32, have arrived; what each wrote before is then visible to all.

    One thread's acquire and release speak for its block, because the block's own barriers stand around them.
    """
    tl.debug_barrier()
    arrived = tl.atomic_add(arrivals, 1, sem="acq_rel", scope="gpu") + 1
    while arrived - target < 0:
        arrived = tl.atomic_add(arrivals, 0, sem="acquire", scope="gpu")
    tl.debug_barrier()


@triton.jit
def is_last(tickets, units):
    """Whether this is the last of so many programs to come here; it then sees what the others wrote before.

    Leaves the tickets as they were at first.
    """
    tl.debug_barrier()
    last = tl.atomic_add(tickets, 1, sem="acq_rel", scope="gpu") == units - 1
    if last:
        tl.store(tickets, 0)
    tl.debug_barrier()
    return last
