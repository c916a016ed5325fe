"""The selection methods as Python functions: four on batches, four on packed ragged batches."""

from __future__ import annotations

from torch import Tensor

from .calls import select, select_varlen


def divprune(
    x: Tensor,
    k: int | None = None,
    *,
    keep_ratio: float | None = None,
    sorted: bool = False,
    initial: Tensor | None = None,
) -> Tensor:
    """Selects k rows of each item by DivPrune, greedy max-min diversity.

    First the row whose nearest neighbour is farthest, then repeatedly the row that is farthest from the nearest
    selected one, in cosine distance. Ties go to the lowest index; non-finite rows come last. Alvar et al., CVPR 2025,
    arXiv 2503.02175, section 3.

    Args:
        x: tokens, ``[..., N, D]``, float16, bfloat16 or float32.
        k: how many rows to keep of each item, ``0 <= k <= N``; more are an error, ``min(k, N)`` keeps all. Give either
            k or ``keep_ratio``.
        keep_ratio: the share of rows to keep, in (0, 1]: ``k = min(N, max(1, round_half_even(keep_ratio * N)))``.
        sorted: True returns ascending indices, as language models consume them, False the order of selection.
        initial: rows of each item that count as selected already, int64 ``[..., M]``; k counts the picks after them,
            ``0 <= k <= N - M``. On the native backend.

    Returns:
        int64 ``[..., k]``, the kept rows of each item. ``torch.ops.tokenprune.divprune.scores`` returns their scores
        too.

    Raises:
        ValueError: an argument has the wrong shape or range.
        TypeError: x has the wrong dtype or is not a dense tensor, or a number is not exact.

    Takes O(N^2 D) operations for the first pick and O(N k D) for the others, and O(N + k D) memory beside x.

    Example:
        >>> import torch
        >>> from tokenprune_kernels import divprune
        >>> x = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [-1.0, 0.2]])
        >>> divprune(x, 3)
        tensor([2, 0, 3])
        >>> divprune(x, keep_ratio=0.5, sorted=True)
        tensor([0, 2])
        >>> divprune(x, 2, initial=torch.tensor([1]))
        tensor([3, 2])
    """
    return select("divprune", x, None, k, keep_ratio, sorted, initial=initial)


def mmr(
    x: Tensor,
    relevance: Tensor,
    k: int | None = None,
    *,
    keep_ratio: float | None = None,
    lam: float = 0.5,
    sorted: bool = False,
    initial: Tensor | None = None,
) -> Tensor:
    """Selects k rows of each item by maximal marginal relevance, MMR.

    First the most relevant row, then repeatedly the row with the largest
    ``lam * relevance - (1 - lam) * max cosine similarity to the selected rows``. Ties go to the lowest index;
    non-finite rows come last. Carbonell & Goldstein, SIGIR 1998, section 2.

    Args:
        x: tokens, ``[..., N, D]``, float16, bfloat16 or float32.
        relevance: of each token, ``[..., N]``, float16, bfloat16, float32 or float64. Similarities are in [-1, 1], so
            scale it to a comparable range.
        k: how many rows to keep of each item, ``0 <= k <= N``; more are an error, ``min(k, N)`` keeps all. Give either
            k or ``keep_ratio``.
        keep_ratio: the share of rows to keep, in (0, 1]: ``k = min(N, max(1, round_half_even(keep_ratio * N)))``.
        lam: weight of relevance, in [0, 1]: 1 ranks by relevance alone, 0 by diversity alone.
        sorted: True returns ascending indices, as language models consume them, False the order of selection.
        initial: rows of each item that count as selected already, int64 ``[..., M]``; k counts the picks after them,
            ``0 <= k <= N - M``. On the native backend.

    Returns:
        int64 ``[..., k]``, the kept rows of each item. ``torch.ops.tokenprune.mmr.scores`` returns their scores too.

    Raises:
        ValueError: an argument has the wrong shape, device or range.
        TypeError: a tensor has the wrong dtype or is not a dense tensor, or a number is not exact.

    Takes O(N k D) operations and O(N + k D) memory beside x.

    Example:
        >>> import torch
        >>> from tokenprune_kernels import mmr
        >>> x = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [-1.0, 0.2]])
        >>> relevance = torch.tensor([0.8, 0.9, 0.5, 0.2])
        >>> mmr(x, relevance, 2)
        tensor([1, 3])
        >>> mmr(x, relevance, 2, lam=1.0)
        tensor([1, 0])
    """
    return select("mmr", x, relevance, k, keep_ratio, sorted, lam, initial)


def idpruner(
    x: Tensor,
    importance: Tensor,
    k: int | None = None,
    *,
    keep_ratio: float | None = None,
    lam: float = 0.5,
    sorted: bool = False,
    initial: Tensor | None = None,
) -> Tensor:
    """Selects k rows of each item by IDPruner: MMR on importance that is scaled to [0, 1].

    Relevance is ``(w - min w) / (max w - min w + 1e-6)`` over the finite rows of the item. First the most relevant row,
    then repeatedly the row with the largest
    ``lam * relevance - (1 - lam) * max cosine similarity to the selected rows``. Ties go to the lowest index;
    non-finite rows come last. Tan et al., arXiv 2602.13315, section 3.

    Args:
        x: tokens, ``[..., N, D]``, float16, bfloat16 or float32.
        importance: w, of each token, ``[..., N]``, float16, bfloat16, float32 or float64, in any unit.
        k: how many rows to keep of each item, ``0 <= k <= N``; more are an error, ``min(k, N)`` keeps all. Give either
            k or ``keep_ratio``.
        keep_ratio: the share of rows to keep, in (0, 1]: ``k = min(N, max(1, round_half_even(keep_ratio * N)))``.
        lam: weight of importance, in [0, 1]: 1 ranks by importance alone, 0 by diversity alone.
        sorted: True returns ascending indices, as language models consume them, False the order of selection.
        initial: rows of each item that count as selected already, int64 ``[..., M]``; k counts the picks after them,
            ``0 <= k <= N - M``. On the native backend.

    Returns:
        int64 ``[..., k]``, the kept rows of each item. ``torch.ops.tokenprune.idpruner.scores`` returns their scores
        too.

    Raises:
        ValueError: an argument has the wrong shape, device or range.
        TypeError: a tensor has the wrong dtype or is not a dense tensor, or a number is not exact.

    Takes O(N k D) operations and O(N + k D) memory beside x.

    Example:
        >>> import torch
        >>> from tokenprune_kernels import idpruner
        >>> x = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [-1.0, 0.2]])
        >>> importance = torch.tensor([7.0, 8.0, 5.0, 1.0])
        >>> idpruner(x, importance, 2)
        tensor([1, 3])
        >>> idpruner(x, importance, 2, lam=1.0)
        tensor([1, 0])
    """
    return select("idpruner", x, importance, k, keep_ratio, sorted, lam, initial)


def dpp(
    x: Tensor, relevance: Tensor, k: int | None = None, *, keep_ratio: float | None = None, sorted: bool = False
) -> Tensor:
    """Selects k rows of each item by greedy inference for a determinantal point process, as CDPruner does.

    The kernel is ``L_ij = relevance_i * similarity_ij * relevance_j``. First the row with the largest ``L_ii``, then
    repeatedly the row i with the largest ``det(L_{S+i}) / det(L_S)``, S being the selected rows. How much relevance
    counts against diversity follows from its spread: ``exp(a * relevance)`` makes it count more for a larger a. Ties go
    to the lowest index; non-finite rows come last. Chen et al., NeurIPS 2018, arXiv 1709.05135, section 4; CDPruner:
    Zhang et al., arXiv 2506.10967, section 3.

    Args:
        x: tokens, ``[..., N, D]``, float16, bfloat16 or float32.
        relevance: of each token, ``[..., N]``, float16, bfloat16, float32 or float64, not negative.
        k: how many rows to keep of each item, ``0 <= k <= N``; more are an error, ``min(k, N)`` keeps all. Give either
            k or ``keep_ratio``.
        keep_ratio: the share of rows to keep, in (0, 1]: ``k = min(N, max(1, round_half_even(keep_ratio * N)))``.
        sorted: True returns ascending indices, as language models consume them, False the order of selection.

    Returns:
        int64 ``[..., k]``, the kept rows of each item. ``torch.ops.tokenprune.dpp.scores`` returns their scores too.

    Raises:
        ValueError: an argument has the wrong shape, device or range; on the CPU, also a negative relevance.
        TypeError: a tensor has the wrong dtype or is not a dense tensor, or a number is not exact.

    Takes O(N k (D + k)) operations and O(N k) memory beside x.

    Example:
        >>> import torch
        >>> from tokenprune_kernels import dpp
        >>> x = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [-1.0, 0.2]])
        >>> dpp(x, torch.tensor([0.8, 0.9, 0.5, 0.2]), 2)
        tensor([1, 2])
    """
    return select("dpp", x, relevance, k, keep_ratio, sorted)


def divprune_varlen(
    x: Tensor,
    cu_seqlens: Tensor,
    cu_k: Tensor,
    total_k: int | None = None,
    max_seqlen: int | None = None,
    *,
    sorted: bool = False,
) -> Tensor:
    """Selects rows of each segment of a packed ragged batch by DivPrune, greedy max-min diversity.

    In each segment, first the row whose nearest neighbour is farthest, then repeatedly the row that is farthest from
    the nearest selected one, in cosine distance. Ties go to the lowest index; non-finite rows come last. Alvar et al.,
    CVPR 2025, arXiv 2503.02175, section 3.

    Args:
        x: tokens of all segments, ``[T, D]``, float16, bfloat16 or float32.
        cu_seqlens: int32 ``[S + 1]``, prefix sums of the segment lengths, on the device of x.
        cu_k: int32 ``[S + 1]``, prefix sums of how many rows each segment keeps, on the device of x.
        total_k: the length of the result, at least ``cu_k[S]``. None reads ``cu_k[S]``, which on a GPU waits for the
            device.
        max_seqlen: an upper bound on the segment lengths. None reads their maximum, which on a GPU waits likewise.
        sorted: True returns ascending indices within each segment, False the order of selection.

    Returns:
        int64 ``[total_k]``, row numbers of x, segment by segment; -1 from ``cu_k[S]`` on.
        ``torch.ops.tokenprune.divprune_varlen.scores`` returns their scores too.

    Raises:
        ValueError: an argument has the wrong shape, device or range; on the CPU, also prefix sums with wrong contents.
        TypeError: a tensor has the wrong dtype or is None.

    Takes O(n^2 D) operations for the first pick of a segment of n rows and O(n k D) for the others.

    Example:
        >>> import torch
        >>> from tokenprune_kernels import divprune_varlen
        >>> x = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [-1.0, 0.2]])
        >>> cu_seqlens = torch.tensor([0, 1, 4], dtype=torch.int32)
        >>> divprune_varlen(x, cu_seqlens, torch.tensor([0, 1, 3], dtype=torch.int32))
        tensor([0, 1, 3])
    """
    return select_varlen("divprune", x, None, cu_seqlens, cu_k, total_k, max_seqlen, sorted)


def mmr_varlen(
    x: Tensor,
    relevance: Tensor,
    cu_seqlens: Tensor,
    cu_k: Tensor,
    total_k: int | None = None,
    max_seqlen: int | None = None,
    *,
    lam: float = 0.5,
    sorted: bool = False,
) -> Tensor:
    """Selects rows of each segment of a packed ragged batch by maximal marginal relevance, MMR.

    In each segment, first the most relevant row, then repeatedly the row with the largest
    ``lam * relevance - (1 - lam) * max cosine similarity to the selected rows``. Ties go to the lowest index;
    non-finite rows come last. Carbonell & Goldstein, SIGIR 1998, section 2.

    Args:
        x: tokens of all segments, ``[T, D]``, float16, bfloat16 or float32.
        relevance: of each token, ``[T]``, float16, bfloat16, float32 or float64. Similarities are in [-1, 1], so scale
            it to a comparable range.
        cu_seqlens: int32 ``[S + 1]``, prefix sums of the segment lengths, on the device of x.
        cu_k: int32 ``[S + 1]``, prefix sums of how many rows each segment keeps, on the device of x.
        total_k: the length of the result, at least ``cu_k[S]``. None reads ``cu_k[S]``, which on a GPU waits for the
            device.
        max_seqlen: an upper bound on the segment lengths. None reads their maximum, which on a GPU waits likewise.
        lam: weight of relevance, in [0, 1]: 1 ranks by relevance alone, 0 by diversity alone.
        sorted: True returns ascending indices within each segment, False the order of selection.

    Returns:
        int64 ``[total_k]``, row numbers of x, segment by segment; -1 from ``cu_k[S]`` on.
        ``torch.ops.tokenprune.mmr_varlen.scores`` returns their scores too.

    Raises:
        ValueError: an argument has the wrong shape, device or range; on the CPU, also prefix sums with wrong contents.
        TypeError: a tensor has the wrong dtype or is None.

    Takes O(n k D) operations for a segment of n rows.

    Example:
        >>> import torch
        >>> from tokenprune_kernels import mmr_varlen
        >>> x = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [-1.0, 0.2]])
        >>> relevance = torch.tensor([0.8, 0.9, 0.5, 0.2])
        >>> cu_seqlens = torch.tensor([0, 1, 4], dtype=torch.int32)
        >>> mmr_varlen(x, relevance, cu_seqlens, torch.tensor([0, 1, 3], dtype=torch.int32))
        tensor([0, 1, 3])
    """
    return select_varlen("mmr", x, relevance, cu_seqlens, cu_k, total_k, max_seqlen, sorted, lam)


def idpruner_varlen(
    x: Tensor,
    importance: Tensor,
    cu_seqlens: Tensor,
    cu_k: Tensor,
    total_k: int | None = None,
    max_seqlen: int | None = None,
    *,
    lam: float = 0.5,
    sorted: bool = False,
) -> Tensor:
    """Selects rows of each segment of a packed ragged batch by IDPruner: MMR on importance that is scaled to [0, 1].

    Relevance is ``(w - min w) / (max w - min w + 1e-6)`` over the finite rows of the segment. In each segment, first
    the most relevant row, then repeatedly the row with the largest
    ``lam * relevance - (1 - lam) * max cosine similarity to the selected rows``. Ties go to the lowest index;
    non-finite rows come last. Tan et al., arXiv 2602.13315, section 3.

    Args:
        x: tokens of all segments, ``[T, D]``, float16, bfloat16 or float32.
        importance: w, of each token, ``[T]``, float16, bfloat16, float32 or float64, in any unit.
        cu_seqlens: int32 ``[S + 1]``, prefix sums of the segment lengths, on the device of x.
        cu_k: int32 ``[S + 1]``, prefix sums of how many rows each segment keeps, on the device of x.
        total_k: the length of the result, at least ``cu_k[S]``. None reads ``cu_k[S]``, which on a GPU waits for the
            device.
        max_seqlen: an upper bound on the segment lengths. None reads their maximum, which on a GPU waits likewise.
        lam: weight of importance, in [0, 1]: 1 ranks by importance alone, 0 by diversity alone.
        sorted: True returns ascending indices within each segment, False the order of selection.

    Returns:
        int64 ``[total_k]``, row numbers of x, segment by segment; -1 from ``cu_k[S]`` on.
        ``torch.ops.tokenprune.idpruner_varlen.scores`` returns their scores too.

    Raises:
        ValueError: an argument has the wrong shape, device or range; on the CPU, also prefix sums with wrong contents.
        TypeError: a tensor has the wrong dtype or is None.

    Takes O(n k D) operations for a segment of n rows.

    Example:
        >>> import torch
        >>> from tokenprune_kernels import idpruner_varlen
        >>> x = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [-1.0, 0.2]])
        >>> importance = torch.tensor([7.0, 8.0, 5.0, 1.0])
        >>> cu_seqlens = torch.tensor([0, 1, 4], dtype=torch.int32)
        >>> idpruner_varlen(x, importance, cu_seqlens, torch.tensor([0, 1, 3], dtype=torch.int32))
        tensor([0, 1, 3])
    """
    return select_varlen("idpruner", x, importance, cu_seqlens, cu_k, total_k, max_seqlen, sorted, lam)


def dpp_varlen(
    x: Tensor,
    relevance: Tensor,
    cu_seqlens: Tensor,
    cu_k: Tensor,
    total_k: int | None = None,
    max_seqlen: int | None = None,
    *,
    sorted: bool = False,
) -> Tensor:
    """Selects rows of each segment of a packed ragged batch by greedy inference for a determinantal point process.

    The kernel of a segment is ``L_ij = relevance_i * similarity_ij * relevance_j``. In each segment, first the row with
    the largest ``L_ii``, then repeatedly the row i with the largest ``det(L_{S+i}) / det(L_S)``, S being the selected
    rows. Ties go to the lowest index; non-finite rows come last. Chen et al., NeurIPS 2018, arXiv 1709.05135, section
    4; CDPruner: Zhang et al., arXiv 2506.10967, section 3.

    Args:
        x: tokens of all segments, ``[T, D]``, float16, bfloat16 or float32.
        relevance: of each token, ``[T]``, float16, bfloat16, float32 or float64, not negative.
        cu_seqlens: int32 ``[S + 1]``, prefix sums of the segment lengths, on the device of x.
        cu_k: int32 ``[S + 1]``, prefix sums of how many rows each segment keeps, on the device of x.
        total_k: the length of the result, at least ``cu_k[S]``. None reads ``cu_k[S]``, which on a GPU waits for the
            device.
        max_seqlen: an upper bound on the segment lengths. None reads their maximum, which on a GPU waits likewise.
        sorted: True returns ascending indices within each segment, False the order of selection.

    Returns:
        int64 ``[total_k]``, row numbers of x, segment by segment; -1 from ``cu_k[S]`` on.
        ``torch.ops.tokenprune.dpp_varlen.scores`` returns their scores too.

    Raises:
        ValueError: an argument has the wrong shape, device or range; on the CPU, also prefix sums with wrong contents
            or a negative relevance.
        TypeError: a tensor has the wrong dtype or is None.

    Takes O(n k (D + k)) operations for a segment of n rows.

    Example:
        >>> import torch
        >>> from tokenprune_kernels import dpp_varlen
        >>> x = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [-1.0, 0.2]])
        >>> relevance = torch.tensor([0.8, 0.9, 0.5, 0.2])
        >>> cu_seqlens = torch.tensor([0, 1, 4], dtype=torch.int32)
        >>> dpp_varlen(x, relevance, cu_seqlens, torch.tensor([0, 1, 3], dtype=torch.int32))
        tensor([0, 1, 2])
    """
    return select_varlen("dpp", x, relevance, cu_seqlens, cu_k, total_k, max_seqlen, sorted)
