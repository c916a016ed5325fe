"""What the Python functions take as a number or a tensor, before the dispatcher would see it.

Numbers of any type are taken if they are exact: ``k`` may be 4, 4.0, ``numpy.int64(4)`` or a tensor of one number
without dimensions. The same values pass in compiled code.
"""

from __future__ import annotations

import numbers
from typing import Any

import torch
from torch import Tensor


def exact_integer(name: str, argument: str, value: Any) -> int:
    """Returns a number as an integer.

    Raises:
        TypeError: in the name of `name`, for what is no integer, is cut off or is a truth value.
    """
    if type(value) is int or isinstance(value, torch.SymInt):
        return value  # type: ignore[return-value]
    number: Any = value
    if getattr(value, "ndim", None) == 0:  # tensors, and numpy's numbers
        number = value.item()
    if isinstance(number, numbers.Real) and not isinstance(number, bool) and number == number // 1:
        return int(number)  # type: ignore[call-overload]
    raise TypeError(f"{name}: expected {argument} to be an integer, got {_shown(value)}")


def number(name: str, argument: str, value: Any) -> float:
    """Returns a number as a float.

    Raises:
        TypeError: in the name of `name`, for what is no real number or is a truth value.
    """
    if type(value) is float or type(value) is int or isinstance(value, torch.SymFloat | torch.SymInt):
        return value  # type: ignore[return-value]
    number: Any = value
    if getattr(value, "ndim", None) == 0:  # tensors, and numpy's numbers
        number = value.item()
    if isinstance(number, numbers.Real) and not isinstance(number, bool):
        return float(number)
    raise TypeError(f"{name}: expected {argument} to be a number, got {_shown(value)}")


def check_tensor(name: str, argument: str, value: Any) -> None:
    """Raises a TypeError in the name of `name` unless a value is a dense tensor, and says how to make it one."""
    if isinstance(value, Tensor):
        if value.is_nested:
            raise TypeError(
                f"{name}: expected {argument} to be a dense tensor, got a nested one (the varlen operators take its "
                "values(), and its offsets() as int32)"
            )
        if value.layout is not torch.strided:
            raise TypeError(
                f"{name}: expected {argument} to be a dense tensor, got layout {value.layout} (to_dense() makes one)"
            )
        return
    got = "None" if value is None else type(value).__name__
    raise TypeError(f"{name}: expected {argument} to be a tensor, got {got}{remedy(value)}")


def remedy(value: Any) -> str:
    """How to make a tensor of an array or a list, in brackets; empty for everything else."""
    makers = {"ndarray": "torch.from_numpy", "list": "torch.tensor", "tuple": "torch.tensor"}
    maker = makers.get(type(value).__name__)
    return f" ({maker} makes one)" if maker else ""


def _shown(value: Any) -> str:
    return f"a tensor of shape {list(value.shape)}" if isinstance(value, Tensor) and value.dim() else repr(value)
