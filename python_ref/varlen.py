"""The varlen forms: a loop over the segments of a packed ragged batch."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor

from .divprune import divprune
from .dpp import dpp
from .idpruner import idpruner
from .mmr import mmr


def divprune_varlen(
    x: Tensor, cu_seqlens: Tensor, cu_k: Tensor, total_k: int, max_seqlen: int
) -> tuple[Tensor, Tensor]:
    """``divprune`` on each segment of x ``[T, D]``: row numbers into x and scores ``[total_k]``."""
    return _each_segment(lambda rows, k: divprune(x[rows], k), cu_seqlens, cu_k, total_k, max_seqlen, len(x))


def mmr_varlen(
    x: Tensor,
    relevance: Tensor,
    cu_seqlens: Tensor,
    cu_k: Tensor,
    total_k: int,
    max_seqlen: int,
    lam: float = 0.5,
) -> tuple[Tensor, Tensor]:
    """``mmr`` on each segment of x ``[T, D]`` and relevance ``[T]``."""
    return _each_segment(
        lambda rows, k: mmr(x[rows], relevance[rows], k, lam), cu_seqlens, cu_k, total_k, max_seqlen, len(x)
    )


def idpruner_varlen(
    x: Tensor,
    importance: Tensor,
    cu_seqlens: Tensor,
    cu_k: Tensor,
    total_k: int,
    max_seqlen: int,
    lam: float = 0.5,
) -> tuple[Tensor, Tensor]:
    """``idpruner`` on each segment of x ``[T, D]`` and importance ``[T]``."""
    return _each_segment(
        lambda rows, k: idpruner(x[rows], importance[rows], k, lam), cu_seqlens, cu_k, total_k, max_seqlen, len(x)
    )


def dpp_varlen(
    x: Tensor, relevance: Tensor, cu_seqlens: Tensor, cu_k: Tensor, total_k: int, max_seqlen: int
) -> tuple[Tensor, Tensor]:
    """``dpp`` on each segment of x ``[T, D]`` and relevance ``[T]``."""
    return _each_segment(
        lambda rows, k: dpp(x[rows], relevance[rows], k), cu_seqlens, cu_k, total_k, max_seqlen, len(x)
    )


def segments(cu_seqlens: Tensor, cu_k: Tensor, rows: int, total_k: int) -> list[tuple[slice, slice]]:
    """Returns the rows and the output rows of each segment.

    Raises:
        ValueError: unless both prefix sums rise from 0 to within their capacity.
    """
    starts, kept = cu_seqlens.tolist(), cu_k.tolist()
    for name, sums, capacity in (("cu_seqlens", starts, rows), ("cu_k", kept, total_k)):
        if sums[0] != 0 or sums != sorted(sums) or sums[-1] > capacity:
            raise ValueError(f"expected {name} to rise from 0 to at most {capacity}, got {sums}")
    ends = zip(pairwise(starts), pairwise(kept), strict=True)
    return [(slice(*segment), slice(*slots)) for segment, slots in ends]


def _each_segment(
    select: Callable[[slice, int], tuple[Tensor, Tensor]],
    cu_seqlens: Tensor,
    cu_k: Tensor,
    total_k: int,
    max_seqlen: int,
    rows: int,
) -> tuple[Tensor, Tensor]:
    indices = torch.full((total_k,), -1, dtype=torch.int64)
    scores = torch.full((total_k,), -torch.inf, dtype=torch.float64)
    for segment, slots in segments(cu_seqlens, cu_k, rows, total_k):
        length = segment.stop - segment.start
        if length > max_seqlen:
            raise ValueError(f"expected segments of at most max_seqlen = {max_seqlen} rows, got {length}")
        picks, scores[slots] = select(segment, slots.stop - slots.start)
        indices[slots] = picks + segment.start
    return indices, scores
