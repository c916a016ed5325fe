"""What the commands take as the values of options. Each function reads a text, or says what was expected."""

from __future__ import annotations

import math
from argparse import ArgumentTypeError
from collections.abc import Callable, Iterable

from .methods import METHODS

WITH_LAM = " or ".join(name for name, method in METHODS.items() if method.has_lam)


def keep_ratio(text: str) -> float:
    """A share of the tokens, more than nothing."""
    ratio = number(text)
    if not 0.0 < ratio <= 1.0:
        raise ArgumentTypeError(f"expected a ratio in (0, 1], got {text!r}")
    return ratio


def lam(text: str) -> float:
    """The weight of relevance or importance."""
    share = number(text)
    if not 0.0 <= share <= 1.0:
        raise ArgumentTypeError(f"expected a share in [0, 1], got {text!r}")
    return share


def count(text: str) -> int:
    """A number of rows."""
    try:
        rows = int(text)
    except ValueError:
        rows = -1
    if rows < 0:
        raise ArgumentTypeError(f"expected a whole number, got {text!r}")
    return rows


def one_of(names: Iterable[str]) -> Callable[[str], str]:
    """A function that takes these names alone."""
    expected = tuple(names)

    def name(text: str) -> str:
        if text not in expected:
            raise ArgumentTypeError(f"expected one of {', '.join(expected)}, got {text!r}")
        return text

    return name


def number(text: str) -> float:
    """The number that the text is, or NaN, which is in no range."""
    try:
        return float(text)
    except ValueError:
        return math.nan


def check_lam(given: float | None, method: str) -> None:
    """Raises a ValueError where lam is given to a method that has none."""
    if given is not None and not METHODS[method].has_lam:
        raise ValueError(f"argument --lam: expected a method that has it, {WITH_LAM}, got {method}")
