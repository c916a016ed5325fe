"""How many tokens each image or video keeps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..arguments import exact_integer
from ..calls import kept_count

Budget = int | float | Sequence[int] | Sequence[float]


def check_budget(name: str, k: Any, keep_ratio: Any) -> None:
    """Raises in the name of `name` unless one of the two is given and ``budgets`` accepts each of its numbers."""
    if (k is None) == (keep_ratio is None):
        raise ValueError(
            f"{name}: expected exactly one of k and keep_ratio to be given, got k={k} and keep_ratio={keep_ratio}"
        )
    given = keep_ratio if k is None else k
    for number in _numbers(given) or [given]:
        budgets(name, [1], None if k is None else number, number if k is None else None)


def budgets(name: str, counts: list[int], k: Any, keep_ratio: Any) -> list[int]:
    """How many tokens each segment keeps.

    Args:
        name: whose arguments k and keep_ratio are, for errors.
        counts: how many candidates each segment has.
        k: how many to keep, one number or one per segment; a segment with fewer candidates keeps them all.
        keep_ratio: the share to keep, in (0, 1], one number or one per segment.

    Raises:
        ValueError, TypeError: naming the argument, what was expected and what came.
    """
    if k is not None:
        return [
            _at_most(name, number, count) for number, count in zip(_each(name, "k", k, counts), counts, strict=True)
        ]
    ratios = _each(name, "keep_ratio", keep_ratio, counts)
    return [kept_count(name, count, ratio) for count, ratio in zip(counts, ratios, strict=True)]


def _numbers(budget: Any) -> list[Any] | None:
    """The numbers of a budget that has one for each segment; None for a single number."""
    if hasattr(budget, "tolist"):  # of tensors and of numpy's arrays and numbers
        budget = budget.tolist()
    return list(budget) if isinstance(budget, Sequence) and not isinstance(budget, str) else None


def _each(name: str, argument: str, budget: Any, counts: list[int]) -> list[Any]:
    numbers = _numbers(budget)
    if numbers is None:
        return [budget] * len(counts)
    if len(numbers) != len(counts):
        raise ValueError(
            f"{name}: expected {argument} to be one number or {len(counts)}, one per image or video, "
            f"got {len(numbers)} numbers"
        )
    return numbers


def _at_most(name: str, k: Any, count: int) -> int:
    k = exact_integer(name, "k", k)
    if k < 1:
        raise ValueError(f"{name}: expected k to be at least 1, got {k}")
    return min(k, count)
