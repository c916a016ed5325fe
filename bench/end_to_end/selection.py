"""What the pruning selects, recorded as it selects it, and replaced by a published loop."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any
from unittest import mock

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from tokenprune_kernels.integrations.transformers import pruning
from tokenprune_kernels.methods import METHODS

Loop = Callable[[Tensor, int], Tensor]


@dataclass(frozen=True)
class Selection:
    """One image's or video's.

    Attributes:
        method: the method.
        x: the tokens, ``[N, D]``.
        weight: their importance, ``[N]``; None for DivPrune.
        indices: the picks in selection order, int64 ``[k]``.
        repeat: does the same again.
    """

    method: str
    x: Tensor
    weight: Tensor | None
    indices: Tensor
    repeat: Callable[[], Tensor]


class Recorder(TorchDispatchMode):
    """Records the latest call of an operator of this package inside its ``with`` block."""

    def __init__(self) -> None:
        super().__init__()
        self.selection: Selection | None = None

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        call = functools.partial(func, *args, **(kwargs or {}))
        result = call()
        if func.namespace == "tokenprune":
            method = func._schema.name.partition("::")[2].removesuffix("_varlen")
            weight = None if METHODS[method].weight is None else args[1]
            self.selection = Selection(method, args[0], weight, result, call)
        return result


class LoopInstead:
    """A published DivPrune loop in the place of the operator; records its latest call inside its ``with`` block."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._recording = False
        self.selection: Selection | None = None

    def __enter__(self) -> LoopInstead:
        self._recording = True
        return self

    def __exit__(self, *exception: object) -> None:
        self._recording = False

    def __call__(self, x: Tensor, counts: list[int], kept_counts: list[int], *_: Any) -> Tensor:
        """Selects as ``integrations.row_selection.select_rows`` does, from one item."""
        (k,) = kept_counts
        indices = self._loop(x, k)
        if self._recording:
            self.selection = Selection("divprune", x, None, indices, lambda: self._loop(x, k))
        return indices


@contextlib.contextmanager
def selecting_by(loop: Loop | None) -> Iterator[Recorder | LoopInstead]:
    """Has ``prune_inputs`` select by a published loop inside the ``with`` block; by the operator where it is None.

    The integration has no public place for another selection, so its own function is patched.

    Yields:
        What records a selection.
    """
    if loop is None:
        yield Recorder()
        return
    instead = LoopInstead(loop)
    with mock.patch.object(pruning, "select_rows", instead):
        yield instead


@contextlib.contextmanager
def encoded_once(inner: Any, modality: str, features: dict[str, Any]) -> Iterator[None]:
    """Has a model's encoder answer what it answered first, kept in ``features``, inside the ``with`` block."""
    name = f"get_{modality}_features"
    encoder = getattr(inner, name)

    @functools.wraps(encoder)
    def answer(*args: Any, **kwargs: Any) -> Any:
        if modality not in features:
            features[modality] = encoder(*args, **kwargs)
        return features[modality]

    with mock.patch.object(inner, name, answer):
        yield
