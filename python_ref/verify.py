"""The float64 replay of a selection: is every pick within tolerance of the best one at its step?

Similarities of two implementations differ in their last bits, so near-ties may resolve differently and the indices of
two right answers may differ. The replay decides: at each step of the picks as they came, it forms every unselected
row's score in float64 from the same raw inputs and compares the picked one with the best.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .dpp import NO_GAIN, self_similarity
from .idpruner import relevance_of
from .mmr import marginal_relevance
from .similarity import SMALLEST_NORM, finite_rows
from .varlen import segments

EXACT_FIRST_PICK_ROWS = 16_384
_FLOAT32_MARGIN = 1e-4
_BLOCK_ROWS = 1024


@dataclass(frozen=True)
class Trace:
    """What a replay found. True when the trace is right.

    Attributes:
        step: the first wrong step of the item, None when there is none; 0 where a shape or dtype is wrong, and the slot
            itself where one past ``cu_k[S]`` is.
        reason: what is wrong at that step.
        shortfall: by how much the pick of that step falls short of the best score, or the reported score misses the
            replay's; the largest shortfall of a pick over all steps when none is wrong; inf for what no score excuses.
        tolerance: how much was allowed at that step, ``2 * eps`` of the contract for a pick and ``eps`` for a reported
            score; the largest allowance for a pick over all steps when none is wrong.
        decisive: the best score beat the runner-up by more than ``4 * eps`` at every step, so that no other trace is
            right and the indices must equal the oracle's.
        item: the batch position or segment the above is about.
    """

    step: int | None
    reason: str
    shortfall: float
    tolerance: float
    decisive: bool
    item: tuple[int, ...] = ()

    def __bool__(self) -> bool:
        return self.step is None


def verify_trace(
    method: str,
    x: Tensor,
    indices: Tensor,
    weight: Tensor | None = None,
    lam: float = 0.5,
    scores: Tensor | None = None,
    k: int | None = None,
) -> Trace:
    """Replays a selection.

    Args:
        method: ``"divprune"``, ``"mmr"``, ``"idpruner"`` or ``"dpp"``.
        x: the tokens selected from, ``[..., N, D]``, in the dtype they were given in.
        indices: the picks in selection order, int64 ``[..., k]``.
        weight: relevance or importance ``[..., N]``; None for ``"divprune"``.
        lam: the share of relevance; without meaning for ``"divprune"`` and ``"dpp"``.
        scores: the float32 scores reported with the picks, checked to be within eps of the replay's.
        k: how many picks were asked for; None takes as many as came.

    Returns:
        The trace of the first wrong item, or of the whole batch when all are right.

    Raises:
        ValueError: for an unknown method, or a weight missing or too many.

    DivPrune's first pick takes all pairs in float64 up to 16,384 rows; above, a float32 pass finds the rows within
    1e-4 of the best, and float64 decides among these. The other picks take O(N D) each, of the DPP O(N (D + k)).
    """
    _check_method(method, weight)
    wrong = _wrong_form(indices, scores, [*x.shape[:-2], *(indices.shape[-1:] if k is None else [k])])
    if wrong is not None:
        return wrong
    traces = []
    for position in torch.ones(x.shape[:-2]).nonzero().tolist():
        item = tuple(position)
        trace = _replay(method, x[item], None if weight is None else weight[item], lam, item).run(
            indices[item], None if scores is None else scores[item]
        )
        if not trace:
            return trace
        traces.append(trace)
    return _all_right(traces)


def verify_trace_varlen(
    method: str,
    x: Tensor,
    indices: Tensor,
    cu_seqlens: Tensor,
    cu_k: Tensor,
    weight: Tensor | None = None,
    lam: float = 0.5,
    scores: Tensor | None = None,
    total_k: int | None = None,
) -> Trace:
    """Replays a packed ragged selection, x ``[T, D]``, segment by segment.

    There must be ``total_k`` slots, ``cu_k[S]`` when None, and those past ``cu_k[S]`` must hold -1 with score -inf.

    Raises:
        ValueError: for an unknown method, a weight missing or too many, or prefix sums that break the contract.
    """
    _check_method(method, weight)
    unused = int(cu_k[-1])
    total_k = unused if total_k is None else total_k
    ends = segments(cu_seqlens, cu_k, len(x), total_k)
    wrong = _wrong_form(indices, scores, [total_k])
    if wrong is not None:
        return wrong
    traces = []
    for s, (rows, slots) in enumerate(ends):
        trace = _replay(method, x[rows], None if weight is None else weight[rows], lam, (s,), rows.start).run(
            indices[slots], None if scores is None else scores[slots]
        )
        if not trace:
            return trace
        traces.append(trace)
    for name, values, filler in (("index", indices, -1), ("score", scores, -torch.inf)):
        for slot, value in enumerate([] if values is None else values[unused:].tolist(), start=unused):
            if value != filler:
                return _not_excused(slot, f"slot {slot} past cu_k[S] = {unused} holds {name} {value}, not {filler}")
    return _all_right(traces)


def _check_method(method: str, weight: Tensor | None) -> None:
    if method not in ("divprune", "mmr", "idpruner", "dpp"):
        raise ValueError(f"expected method to be divprune, mmr, idpruner or dpp, got {method!r}")
    if (weight is None) != (method == "divprune"):
        raise ValueError(f"expected a weight with mmr, idpruner and dpp only, got method {method!r}")


def _wrong_form(indices: Tensor, scores: Tensor | None, shape: list[int]) -> Trace | None:
    for name, tensor in (("indices", indices), ("scores", scores)):
        if tensor is not None and list(tensor.shape) != shape:
            return _not_excused(0, f"expected {name} of shape {shape}, got {list(tensor.shape)}")
    return None if indices.dtype == torch.int64 else _not_excused(0, f"expected int64 indices, got {indices.dtype}")


def _not_excused(step: int, reason: str, item: tuple[int, ...] = ()) -> Trace:
    return Trace(step, reason, torch.inf, 0.0, False, item)


def _all_right(traces: list[Trace]) -> Trace:
    worst = max((trace.shortfall for trace in traces), default=0.0)
    tolerance = max((trace.tolerance for trace in traces), default=0.0)
    return Trace(None, "", worst, tolerance, all(trace.decisive for trace in traces))


class _Replay:
    """The replay of one item, x ``[N, D]``, whose rows the indices count from ``offset``."""

    def __init__(
        self, method: str, x: Tensor, weight: Tensor | None, lam: float, item: tuple[int, ...], offset: int = 0
    ) -> None:
        x = x.cpu()
        weight = None if weight is None else weight.cpu().float()
        self.item = item
        self.offset = offset
        self.lam = lam
        self.finite = finite_rows(x, weight)
        # Rows that influence nothing count as zero rows, so that no NaN enters a product.
        self.x = torch.where(self.finite.unsqueeze(-1), x.double(), 0.0)
        self.norm = self.x.norm(dim=-1).clamp_min(SMALLEST_NORM)
        self.running_maximum = torch.full((len(x),), -torch.inf, dtype=torch.float64)
        self.relevance: Tensor | None = None
        if weight is not None:
            relevance = relevance_of(weight, self.finite) if method == "idpruner" else weight
            self.relevance = torch.where(self.finite, relevance.double(), 0.0)

    def run(self, indices: Tensor, scores: Tensor | None) -> Trace:
        count, offset = len(self.x), self.offset
        reported = None if scores is None else scores.tolist()
        unselected = torch.ones(count, dtype=torch.bool)
        worst, largest_tolerance, decisive = 0.0, 0.0, True
        for step, index in enumerate(indices.tolist()):
            pick = index - offset
            if not 0 <= pick < count:
                return _not_excused(step, f"index {index} is not in [{offset}, {offset + count})", self.item)
            if not unselected[pick]:
                return _not_excused(step, f"index {index} is repeated", self.item)
            eligible = unselected & self.finite
            if not eligible.any():
                lowest = int(unselected.nonzero()[0])
                if pick != lowest:
                    reason = f"non-finite row {index} is picked before non-finite row {lowest + offset}"
                    return _not_excused(step, reason, self.item)
                score, eps = -torch.inf, 0.0
            else:
                if not self.finite[pick]:
                    return _not_excused(step, f"non-finite row {index} is picked before a finite row", self.item)
                eps = self._eps(step)
                rows, values = self._scores(step, pick, eligible)
                score = float(values[rows == pick])
                best, gap = _best_and_gap(values)
                first, tolerance, clear = int(rows[0]), *self._rule(best, gap, eps)
                if tolerance is None and pick != first:
                    reason = f"row {index} is picked where no row has a gain and row {first + offset} comes first"
                    return _not_excused(step, reason, self.item)
                shortfall = 0.0 if score == best or tolerance is None else best - score
                if tolerance is not None and shortfall > tolerance:
                    better = int(rows[values.argmax()]) + offset
                    return self._wrong(
                        step, f"row {index} is picked where row {better} is better", shortfall, tolerance
                    )
                worst, largest_tolerance = max(worst, shortfall), max(largest_tolerance, tolerance or 0.0)
                decisive = decisive and clear
                self._take_in(pick, score)
            if reported is not None and reported[step] != score and not self._agrees(reported[step], score, eps):
                reason = f"row {index} is reported with score {reported[step]}, the replay has {score}"
                return self._wrong(step, reason, abs(reported[step] - score), eps)
            unselected[pick] = False
        return Trace(None, "", worst, largest_tolerance, decisive, self.item)

    def _wrong(self, step: int, reason: str, shortfall: float, tolerance: float) -> Trace:
        return Trace(step, reason, shortfall, tolerance, False, self.item)

    def _eps(self, step: int) -> float:
        if self.relevance is None:
            return 1e-5
        largest = float(self.relevance.abs().max())
        return 1e-5 * max(1.0, largest if step == 0 else self.lam * largest)

    def _rule(self, best: float, gap: float, eps: float) -> tuple[float | None, bool]:
        """How far a pick may fall short, None where the lowest index has to come; and whether that leaves no choice."""
        return 2 * eps, gap > 4 * eps

    def _agrees(self, reported: float, score: float, eps: float) -> bool:
        """Whether a reported score can be that of the replay."""
        return abs(reported - score) <= eps

    def _take_in(self, pick: int, score: float) -> None:
        """What the unselected rows know of the picks takes in one more."""
        self.running_maximum = torch.maximum(self.running_maximum, self._similarities(pick))

    def _scores(self, step: int, pick: int, eligible: Tensor) -> tuple[Tensor, Tensor]:
        """The eligible rows that can be best at this step, the picked one among them, and their scores."""
        rows = eligible.nonzero().squeeze(-1)
        if self.relevance is None:
            return self._first_distances(pick, rows) if step == 0 else (rows, 1.0 - self.running_maximum[rows])
        if step == 0:
            return rows, self.relevance[rows]
        return rows, marginal_relevance(self.relevance[rows], self.running_maximum[rows], self.lam)

    def _first_distances(self, pick: int, rows: Tensor) -> tuple[Tensor, Tensor]:
        if len(rows) > EXACT_FIRST_PICK_ROWS:
            distance = self._nearest_distances(rows, torch.float32)
            contenders = rows[(distance >= distance.max() - _FLOAT32_MARGIN) | (rows == pick)]
            return contenders, self._nearest_distances(contenders, torch.float64)
        return rows, self._nearest_distances(rows, torch.float64)

    def _nearest_distances(self, rows: Tensor, dtype: torch.dtype) -> Tensor:
        """The distance of each of the given rows to the nearest other finite row, block by block."""
        others = self.finite.nonzero().squeeze(-1)
        unit = (self.x[others] / self.norm[others].unsqueeze(-1)).to(dtype) if dtype == torch.float32 else None
        nearest = []
        for block in rows.split(_BLOCK_ROWS):
            if unit is not None:
                similarity = (self.x[block] / self.norm[block].unsqueeze(-1)).to(dtype) @ unit.mT
            else:
                similarity = (self.x[block] @ self.x[others].mT) / (self.norm[block].unsqueeze(-1) * self.norm[others])
            similarity = similarity.masked_fill(block.unsqueeze(-1) == others, -torch.inf)
            nearest.append(similarity.amax(dim=-1))
        return 1.0 - torch.cat(nearest)

    def _similarities(self, pick: int) -> Tensor:
        return (self.x @ self.x[pick]) / (self.norm * self.norm[pick])


class _GainReplay(_Replay):
    """The replay of a DPP: scores are gains, from a Cholesky factor that grows by a column with each pick."""

    def __init__(self, method: str, x: Tensor, weight: Tensor, *rest: Any) -> None:
        weight = weight.float()
        # On a GPU, a negative relevance counts as 0.
        super().__init__(method, x, weight.masked_fill((weight < 0) & weight.isfinite(), 0.0), *rest)
        assert self.relevance is not None
        self.quality = self.relevance
        self.gain = self.quality.square() * self_similarity(x.cpu(), self.finite)
        self.largest = float(self.gain.max()) if len(self.gain) else 0.0
        self.columns: list[Tensor] = []

    def _eps(self, step: int) -> float:
        return NO_GAIN / 2 * self.largest

    def _rule(self, best: float, gap: float, eps: float) -> tuple[float | None, bool]:
        # A gain is zero below 2 eps, and may be wrong by eps: between 1 and 3 eps, some count it and some do not.
        if best <= eps:
            return None, True
        return (2 * eps, gap > 4 * eps) if best >= 3 * eps else (3 * eps, False)

    def _agrees(self, reported: float, score: float, eps: float) -> bool:
        if reported == 0.0 and -torch.inf < score <= 3 * eps:
            return True
        # Gains reach beyond what float32 can hold, in both directions.
        least, most = torch.tensor([score - eps, score + eps], dtype=torch.float64).float().tolist()
        return least <= reported <= most

    def _take_in(self, pick: int, score: float) -> None:
        if score <= self._eps(0):
            return
        column = self.quality * self._similarities(pick) * self.quality[pick]
        for earlier in self.columns:
            column = column - earlier * earlier[pick]
        self.columns.append(column / score**0.5)
        self.gain = self.gain - self.columns[-1].square()

    def _scores(self, step: int, pick: int, eligible: Tensor) -> tuple[Tensor, Tensor]:
        rows = eligible.nonzero().squeeze(-1)
        return rows, self.gain[rows]


def _replay(method: str, x: Tensor, weight: Tensor | None, *rest: Any) -> _Replay:
    if method == "dpp" and weight is not None:
        return _GainReplay(method, x, weight, *rest)
    return _Replay(method, x, weight, *rest)


def _best_and_gap(values: Tensor) -> tuple[float, float]:
    """The largest value and its lead over the second largest."""
    top = values.topk(min(2, len(values))).values.tolist()
    if len(top) == 1 or top[0] == top[1]:
        return top[0], torch.inf if len(top) == 1 else 0.0
    return top[0], top[0] - top[1]
