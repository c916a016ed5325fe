"""What all ranks have to agree on before a selection, so that a mistake is one error on all of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..arguments import check_tensor, exact_integer, number
from ..checks import check_dense
from ..dispatch import backend_of, build_info
from ..version import __version__
from .exchange import Exchange


def agree(
    exchange: Exchange, name: str, parts: Sequence[Any], k: Any, lam: Any, weights: Mapping[str, Any] | None = None
) -> tuple[int, float, list[int]]:
    """Checks the arguments of all ranks. Returns k and lam as numbers, and how many rows each rank has.

    Args:
        exchange: of the selection.
        name: of the method.
        parts: the rows of this rank, one or several tensors ``[n, D]`` of one D and dtype.
        k: how many rows to keep of all ranks.
        lam: 0 where the method has none.
        weights: of the rows of the only tensor, by name.

    Raises:
        TypeError: on this rank, for its own arguments.
        RuntimeError: on this rank, whose extension cannot run.
        ValueError: on this rank, for its own arguments; on all ranks, where they differ or k is too large.
    """
    mine: Exception | None = None
    facts: dict[str, Any] = {}
    try:
        facts = _facts(name, parts, k, lam, weights or {})
    except (TypeError, ValueError, RuntimeError) as error:
        mine = error
        facts = {"refused": str(error)[:200]}
    ranks = exchange.texts(facts)
    if mine is not None:
        raise mine
    for rank, theirs in enumerate(ranks):
        if "refused" in theirs:
            raise ValueError(f"{name}: expected valid arguments on all ranks, got on rank {rank}: {theirs['refused']}")
    for what, value in ranks[0].items():
        for rank, theirs in enumerate(ranks):
            if what != "rows" and theirs[what] != value:
                raise ValueError(
                    f"{name}: expected the same {what} on all ranks, got {value} on rank 0 and {theirs[what]} on rank "
                    f"{rank}"
                )
    k, rows = int(facts["k"]), [int(theirs["rows"]) for theirs in ranks]
    if k > sum(rows):
        raise ValueError(f"{name}: expected k to be in [0, N] with N = {sum(rows)} rows of all ranks, got {k}")
    return k, float(facts["lam"]), rows


def _facts(name: str, parts: Sequence[Any], k: Any, lam: Any, weights: Mapping[str, Any]) -> dict[str, Any]:
    x = parts[0]
    for argument, tensor in {"x_local": x, **weights}.items():
        check_tensor(name, argument, tensor)
    k, lam = exact_integer(name, "k", k), number(name, "lam", lam)
    if x.dim() != 2:
        raise ValueError(f"{name}: expected x_local to have shape [n, D], got shape {list(x.shape)}")
    if k < 0:
        raise ValueError(f"{name}: expected k to be at least 0, got {k}")
    check_dense(name, x, 0, lam, **weights)
    backend = backend_of(name, x.device.type)
    if backend != "native":
        raise ValueError(f"{name}: expected the native backend, which takes rows on the CPU, got backend {backend!r}")
    native = build_info()["backends"]["native"]
    return {
        "method": name,
        "k": k,
        "lam": lam,
        "D": x.shape[1],
        "dtype": str(x.dtype),
        # Similarities of other instruction sets differ in their last bits.
        "instruction set": native["isa_by_dtype"][str(x.dtype).removeprefix("torch.")],
        "release of this package": __version__,
        "rows": sum(len(part) for part in parts),
    }
