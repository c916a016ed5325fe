"""The rows of one rank, and what a selection asks of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from ..dispatch import BACKENDS, backend_of
from .messages import Key, Rows

_ELEMENTS_AT_A_TIME = 1 << 22
"""Of similarities, or of copies of rows. This bounds the memory."""


class Shard:
    """The rows of this rank, in one tensor or in several, which may be mapped from files.

    The rows stay on their device, and the backend of this works on them. All else is small and on the CPU.

    Attributes:
        norms: the reciprocal norm of each row, float32 ``[n]``; 0 for a row that is not finite.
        finite: which rows are, bool ``[n]``.
        first: the global index of its first row.
    """

    def __init__(self, name: str, parts: Sequence[Tensor], weight: Tensor | None, first: int) -> None:
        self._parts = [part.detach() for part in parts]
        self._backend = BACKENDS[backend_of(name, self._parts[0].device.type)]
        self.first = first
        self.norms = torch.cat([self._backend.reciprocal_norms(part).cpu() for part in self._parts])
        if weight is not None:
            self.norms = torch.where(weight.isfinite(), self.norms, 0.0)
        self.finite = self.norms > 0

    def __len__(self) -> int:
        return len(self.norms)

    def rows(self, positions: Tensor) -> Tensor:
        """Copies of rows, on their device: ``[positions, D]``."""
        if len(self._parts) == 1:
            return self._parts[0][positions]
        rows = self.empty(len(positions))
        for part, begin in self._begins():
            here = (positions >= begin) & (positions < begin + len(part))
            rows[here] = part[positions[here] - begin]
        return rows

    def empty(self, count: int) -> Tensor:
        """Unwritten rows, on the device of the others."""
        return self._parts[0].new_empty((count, self._parts[0].shape[1]))

    def largest_similarities(self, positions: Tensor, x: Tensor, norms: Tensor) -> Tensor:
        """The largest similarity of rows of this rank to any of the others: float32 ``[positions]``."""
        most = max(1, _ELEMENTS_AT_A_TIME // max(1, *x.shape))  # of copies of rows, and of similarities
        largest = [
            self._similarities(self.rows(some), self.norms[some], x, norms).amax(dim=1).cpu()
            for some in positions.split(most)
        ]
        return torch.cat(largest)

    def similarities_between(self, x: Tensor, norms_x: Tensor, y: Tensor, norms_y: Tensor) -> Tensor:
        """The similarities of rows of any rank: float32 ``[rows of x, rows of y]``."""
        return self._similarities(x, norms_x, y, norms_y).cpu()

    def _similarities(self, x: Tensor, norms_x: Tensor, y: Tensor, norms_y: Tensor) -> Tensor:
        """Likewise, on the device of the rows."""
        return self._backend.similarities(x, norms_x.to(x.device), y, norms_y.to(y.device))

    def similarities_to(self, x: Tensor, norm: Tensor) -> Tensor:
        """The similarities of all rows of this rank to one row ``[1, D]``: float32 ``[n]``."""
        parts = [made.squeeze(1).cpu() for _, made in self._similarities_of_all(x, norm)]
        return torch.cat(parts) if parts else self.norms.new_empty(0)

    def nearest_to(self, rows: Rows) -> Tensor:
        """The largest similarity of rows of any rank to another finite row of this one: float32 ``[rows]``."""
        nearest = rows.x.new_full((len(rows),), -torch.inf, dtype=torch.float32)
        position = rows.index - self.first
        for here, similarities in self._similarities_of_all(rows.x, rows.norms):
            similarities[~self.finite[here]] = -torch.inf
            own = ((position >= here.start) & (position < here.stop)).nonzero().squeeze(1)
            similarities[position[own] - here.start, own] = -torch.inf
            nearest = torch.maximum(nearest, similarities.amax(dim=0))
        return nearest.cpu()

    def _similarities_of_all(self, x: Tensor, norms: Tensor) -> Iterator[tuple[slice, Tensor]]:
        """The positions of some rows of this rank, and their similarities to others, on the device of the rows."""
        most = max(1, _ELEMENTS_AT_A_TIME // max(1, len(x)))
        for part, begin in self._begins():
            for start in range(0, len(part), most):
                rows = part[start : start + most]
                positions = slice(begin + start, begin + start + len(rows))
                yield positions, self._similarities(rows, self.norms[positions], x, norms)

    def outliers(self, count: int) -> tuple[Tensor, Tensor, Key]:
        """Of each tensor, the finite rows whose nearest other rows there are farthest, ``count`` if there are so many.

        Returns:
            their positions, these distances, float32, and the last key of a tensor that has other finite rows: no
            other row comes before the best of these.
        """
        positions = [self.norms.new_empty(0, dtype=torch.int64)]
        scores, outside = [self.norms.new_empty(0)], Key.none()
        for part, begin in self._begins():
            found, distances = (made.cpu() for made in self._backend.outliers(part, count))
            positions.append(begin + found)
            scores.append(distances)
            if len(found) < int(self.finite[begin : begin + len(part)].sum()):
                outside = min(outside, Key(float(distances[-1]), self.first + int(positions[-1][-1])))
        return torch.cat(positions), torch.cat(scores), outside

    @property
    def parts(self) -> int:
        """How many tensors hold rows."""
        return sum(len(part) > 0 for part in self._parts)

    def _begins(self) -> Iterator[tuple[Tensor, int]]:
        begin = 0
        for part in self._parts:
            yield part, begin
            begin += len(part)
