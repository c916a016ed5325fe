"""What all ranks have to agree on before a selection, so that a mistake is one error on all of them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from torch import Tensor

from ..arguments import check_tensor, exact_integer, number
from ..checks import check_dense, check_initial
from ..dispatch import BACKENDS, backend_of
from ..version import __version__
from .exchange import Exchange

T = TypeVar("T")

_REFUSED = "refused"
_LARGEST_K = (1 << 63) - 1
_MOST_CHARACTERS = 150
"""Of an error that is sent: six bytes each, if they are escaped, fit into a message."""


def together(exchange: Exchange, name: str, prepare: Callable[[], T]) -> T:
    """What each rank prepares for itself.

    Args:
        exchange: of the selection.
        name: of the method or command.
        prepare: called once.

    Raises:
        Exception: on this rank, what its call raised.
        ValueError: on the others, that it did.
    """
    try:
        made = prepare()
    except Exception as error:
        _exchanged(exchange, name, {}, error)
        raise
    _exchanged(exchange, name, {}, None)
    return made


def agree(
    exchange: Exchange,
    name: str,
    method: str,
    parts: Sequence[Any],
    k: Any,
    lam: Any,
    weights: Mapping[str, Any] | None = None,
    initial: Any = None,
    same: Mapping[str, Any] | None = None,
) -> tuple[int, float, list[int]]:
    """Checks the arguments of all ranks. Returns k and lam as numbers, and how many rows each rank has.

    Args:
        exchange: of the selection.
        name: of the function or command, for its errors.
        method: of selection.
        parts: the rows of this rank, one or several tensors ``[n, D]`` of one D and dtype.
        k: how many rows to keep of all ranks.
        lam: 0 where the method has none.
        weights: of the rows of the only tensor, by name.
        initial: global indices of the rows that are selected already; None for none.
        same: what else has to be so on all ranks, by name.

    Raises:
        TypeError: on this rank, for its own arguments.
        RuntimeError: on this rank, whose backend cannot run.
        ValueError: on this rank, for its own arguments; on all ranks, where they differ, k is too large, or initial
            rows are repeated or out of range.
    """
    mine: Exception | None = None
    facts: dict[str, Any] = {}
    try:
        facts = _facts(name, method, parts, k, lam, weights or {}, initial) | dict(same or {})
    except Exception as error:  # whatever it is, the others wait to hear of it
        mine = error
    ranks = _exchanged(exchange, name, facts, mine)
    for what, value in ranks[0].items():
        for rank, theirs in enumerate(ranks):
            if what != "rows" and theirs[what] != value:
                raise ValueError(
                    f"{name}: expected the same {what} on all ranks, got {value} on rank 0 and {theirs[what]} on rank "
                    f"{rank}"
                )
    k, rows = int(facts["k"]), [int(theirs["rows"]) for theirs in ranks]
    count, given = sum(rows), 0 if initial is None else len(initial)
    if k + given > count:
        limit, beside = ("N - M", f" and M = {given} initial rows") if given else ("N", "")
        raise ValueError(
            f"{name}: expected k to be in [0, {limit}] with N = {count} rows of all ranks{beside}, got {k}"
        )
    if given:
        _check_rows(name, initial, count)
    return k, float(facts["lam"]), rows


def _exchanged(
    exchange: Exchange, name: str, facts: dict[str, Any], mine: Exception | None
) -> Sequence[dict[str, Any]]:
    """Exchanges the facts of all ranks. An error of one rank is raised on all."""
    ranks = exchange.texts(facts if mine is None else {_REFUSED: str(mine)[:_MOST_CHARACTERS]})
    if mine is not None:
        raise mine
    for rank, theirs in enumerate(ranks):
        if _REFUSED in theirs:
            raise ValueError(f"{name}: expected valid arguments on all ranks, got on rank {rank}: {theirs[_REFUSED]}")
    return ranks


def _check_rows(name: str, initial: Tensor, count: int) -> None:
    for row in initial[(initial < 0) | (initial >= count)].tolist():
        raise ValueError(f"{name}: expected initial to hold rows in [0, N) with N = {count}, got {row}")
    rows, times = initial.unique(return_counts=True)
    for row in rows[times > 1].tolist():
        raise ValueError(f"{name}: expected initial to hold different rows, got {row} twice")


def _facts(
    name: str, method: str, parts: Sequence[Any], k: Any, lam: Any, weights: Mapping[str, Any], initial: Any
) -> dict[str, Any]:
    x = parts[0]
    for argument, tensor in {"x_local": x, **weights, **({} if initial is None else {"initial": initial})}.items():
        check_tensor(name, argument, tensor)
        if hasattr(tensor, "to_local"):
            raise TypeError(f"{name}: expected {argument} to be of this rank alone, got a DTensor; pass its to_local()")
    k, lam = exact_integer(name, "k", k), number(name, "lam", lam)
    if x.dim() != 2:
        raise ValueError(f"{name}: expected x_local to have shape [n, D], got shape {list(x.shape)}")
    if k < 0:
        raise ValueError(f"{name}: expected k to be at least 0, got {k}")
    if k > _LARGEST_K:
        raise ValueError(f"{name}: expected k to be in [0, N], got a number of {k.bit_length()} bits")
    check_dense(name, x, 0, lam, **weights)
    if initial is not None:
        check_initial(name, initial, x)
    backend = backend_of(name, x.device.type)
    return {
        "method": method,
        "k": k,
        "lam": lam,
        "D": x.shape[1],
        "dtype": str(x.dtype),
        "backend": backend,
        # Similarities of other instruction sets differ in their last bits.
        "instruction set": BACKENDS[backend].instruction_set(x),
        "release of this package": __version__,
        "initial rows": _short(initial),
        "rows": sum(len(part) for part in parts),
    }


def _short(initial: Tensor | None) -> str:
    """What initial rows are compared by: their number, and a digest of them."""
    if initial is None or len(initial) == 0:
        return "none"
    digest = hashlib.sha256(initial.cpu().numpy().tobytes()).hexdigest()
    return f"{len(initial)} with the digest {digest[:16]}"
