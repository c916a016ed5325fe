"""The methods on rows of several processes."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.distributed import ProcessGroup

from ..methods import METHODS
from .agreement import agree
from .exchange import Exchange
from .float_environment import keeping_subnormal_numbers
from .selection import Progress, Selection


def divprune(x_local: Tensor, k: int, *, initial: Tensor | None = None, group: ProcessGroup | None = None) -> Selection:
    """Selects k of the rows of all ranks by DivPrune, greedy max-min diversity.

    First the row whose nearest neighbour is farthest, then repeatedly the row that is farthest from the nearest
    selected one, in cosine distance. Ties go to the lowest index; non-finite rows come last. Alvar et al., CVPR 2025,
    arXiv 2503.02175, section 3.

    Args:
        x_local: the rows of this rank, ``[n, D]``, float16, bfloat16 or float32, on the CPU or a CUDA device. n may be
            0 and differ between ranks.
        k: how many rows to keep of all ranks together, ``0 <= k <= N``.
        initial: global indices of rows that count as selected already, int64 ``[M]``, the same in the same order on
            all ranks, on the device of x_local; k counts the picks after them.
        group: the processes; by default all of them, or this one alone where torch.distributed is not initialised.

    Returns:
        The `Selection`, bit for bit that of one process with all rows.

    Raises:
        ValueError: an argument is wrong, or differs between ranks; on every rank.
        TypeError: an argument of this rank has the wrong type. The other ranks get a ValueError.

    Every rank has to make the call. Takes a collective for each round, in which many rows are picked, and k rows and a
    few numbers for each row of its own in memory.

    Example:
        >>> import torch
        >>> from tokenprune_kernels import distributed
        >>> x = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [-1.0, 0.2]])
        >>> distributed.divprune(x, 3).indices
        tensor([2, 0, 3])
    """
    return _select("divprune", x_local, None, k, 0.0, initial, group)


def mmr(
    x_local: Tensor,
    relevance_local: Tensor,
    k: int,
    lam: float = 0.5,
    *,
    initial: Tensor | None = None,
    group: ProcessGroup | None = None,
) -> Selection:
    """Selects k of the rows of all ranks by maximal marginal relevance, MMR.

    First the most relevant row, then repeatedly the row with the largest
    ``lam * relevance - (1 - lam) * max cosine similarity to the selected rows``. Ties go to the lowest index;
    non-finite rows come last. Carbonell & Goldstein, SIGIR 1998, section 2.

    Args:
        x_local: the rows of this rank, ``[n, D]``, float16, bfloat16 or float32, on the CPU or a CUDA device. n may be
            0 and differ between ranks.
        relevance_local: of each of these rows, ``[n]``, float16, bfloat16, float32 or float64, on the device of
            x_local.
        k: how many rows to keep of all ranks together, ``0 <= k <= N``.
        lam: weight of relevance, in [0, 1]: 1 ranks by relevance alone, 0 by diversity alone.
        initial: global indices of rows that count as selected already, int64 ``[M]``, the same in the same order on
            all ranks, on the device of x_local; k counts the picks after them.
        group: the processes; by default all of them, or this one alone where torch.distributed is not initialised.

    Returns:
        The `Selection`, bit for bit that of one process with all rows.

    Raises:
        ValueError: an argument is wrong, or differs between ranks; on every rank.
        TypeError: an argument of this rank has the wrong type. The other ranks get a ValueError.

    Every rank has to make the call. Takes a collective for each round, in which many rows are picked, and k rows and a
    few numbers for each row of its own in memory.

    Example:
        >>> import torch
        >>> from tokenprune_kernels import distributed
        >>> x = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [-1.0, 0.2]])
        >>> distributed.mmr(x, torch.tensor([0.8, 0.9, 0.5, 0.2]), 2).indices
        tensor([1, 3])
    """
    return _select("mmr", x_local, relevance_local, k, lam, initial, group)


def idpruner(
    x_local: Tensor,
    importance_local: Tensor,
    k: int,
    lam: float = 0.5,
    *,
    initial: Tensor | None = None,
    group: ProcessGroup | None = None,
) -> Selection:
    """Selects k of the rows of all ranks by IDPruner: MMR on importance that is scaled to [0, 1].

    Relevance is ``(w - min w) / (max w - min w + 1e-6)`` over the finite rows of all ranks. Then as `mmr`. Tan et al.,
    arXiv 2602.13315, section 3.

    Args:
        x_local: the rows of this rank, ``[n, D]``, float16, bfloat16 or float32, on the CPU or a CUDA device. n may be
            0 and differ between ranks.
        importance_local: w, of each of these rows, ``[n]``, float16, bfloat16, float32 or float64, in any unit, on the
            device of x_local.
        k: how many rows to keep of all ranks together, ``0 <= k <= N``.
        lam: weight of importance, in [0, 1]: 1 ranks by importance alone, 0 by diversity alone.
        initial: global indices of rows that count as selected already, int64 ``[M]``, the same in the same order on
            all ranks, on the device of x_local; k counts the picks after them.
        group: the processes; by default all of them, or this one alone where torch.distributed is not initialised.

    Returns:
        The `Selection`, bit for bit that of one process with all rows.

    Raises:
        ValueError: an argument is wrong, or differs between ranks; on every rank.
        TypeError: an argument of this rank has the wrong type. The other ranks get a ValueError.

    Every rank has to make the call. Takes a collective for each round, in which many rows are picked, and k rows and a
    few numbers for each row of its own in memory.

    Example:
        >>> import torch
        >>> from tokenprune_kernels import distributed
        >>> x = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [-1.0, 0.2]])
        >>> distributed.idpruner(x, torch.tensor([8.0, 9.0, 5.0, 2.0]), 2).indices
        tensor([1, 3])
    """
    return _select("idpruner", x_local, importance_local, k, lam, initial, group)


def _select(
    method: str,
    x: Tensor,
    weight: Tensor | None,
    k: Any,
    lam: Any,
    initial: Tensor | None,
    group: ProcessGroup | None,
) -> Selection:
    exchange = Exchange(group, x.device if isinstance(x, Tensor) else None)
    name = METHODS[method].weight
    given = {} if name is None else {f"{name}_local": weight}
    k, lam, rows = agree(exchange, f"distributed.{method}", method, [x], k, lam, given, initial)
    with keeping_subnormal_numbers():
        progress = Progress(method, [x], weight, k, lam, exchange, rows, initial)
        for _ in progress.rounds():
            pass
    return progress.selection()
