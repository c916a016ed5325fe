"""Cosine similarity in float64, and which rows take part."""

from __future__ import annotations

import torch
from torch import Tensor

SMALLEST_NORM = 1e-12


def finite_rows(x: Tensor, weight: Tensor | None = None) -> Tensor:
    """Which rows of x ``[N, D]`` are finite: every element, the float32 sum of squares, and the float32 weight."""
    finite = x.isfinite().all(dim=-1) & x.double().square().sum(dim=-1).float().isfinite()
    return finite if weight is None else finite & weight.float().isfinite()


def similarity_matrix(x: Tensor, finite: Tensor) -> Tensor:
    """Returns all similarities of the rows of x ``[N, D]``, float64 ``[N, N]``; non-finite rows count as zero rows.

    Symmetric, and equal for equal pairs of rows.
    """
    x = torch.where(finite.unsqueeze(-1), x.double(), 0.0)
    # The last bits of a matrix product depend on the position of a row. So equal rows share one product, and one half
    # of the matrix is mirrored.
    distinct, position = x.unique(dim=0, return_inverse=True)
    norm = distinct.norm(dim=-1).clamp_min(SMALLEST_NORM)
    # The products come before the division: dot products of small integers are then exact, and so is every tie.
    similarity = (distinct @ distinct.mT) / (norm.unsqueeze(-1) * norm)
    return (similarity.tril() + similarity.tril(-1).mT)[position][:, position]
