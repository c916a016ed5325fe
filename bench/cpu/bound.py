"""The least time that a selection takes on a processor whose rates are measured beside it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Rates:
    """What the processor reaches: a large matrix product of the dtype, and streaming through x."""

    operations_per_second: float
    bytes_per_second: float


def pairs(method: str, count: int, k: int) -> int:
    """The pairs of N rows whose similarity every exact method that goes by similarities needs.

    A pick's score depends on each pick before it: ``k (k - 1) / 2`` pairs. DivPrune's first pick is known only by its
    similarity to all N - 1 others, which include the k - 1 later picks. What proves that the other rows are not
    picked is left out: how few pairs do that depends on the input.
    """
    among_picks = k * (k - 1) // 2
    if method != "divprune" or k == 0:
        return among_picks
    return among_picks + count - k


def bound(method: str, count: int, k: int, depth: int, element_size: int, rates: Rates, items: int = 1) -> float:
    """The least seconds for a batch: one read of x, or ``2 D`` operations for each pair, whichever takes longer.

    One read, because every element decides whether its row is finite. Norms, writing and choosing are left out.
    """
    operations = 2 * depth * pairs(method, count, k)
    read = count * depth * element_size
    return items * max(operations / rates.operations_per_second, read / rates.bytes_per_second)
