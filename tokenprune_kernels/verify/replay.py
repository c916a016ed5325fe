"""The float64 replay of one item: it follows the picks as they came and scores every other row at each step."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .rows import NO_GAIN, SMALLEST_NORM, finite_rows, scaled_importance, self_similarity
from .verdict import Verdict, inexcusable

EXACT_FIRST_PICK_ROWS = 16_384
_FLOAT32_MARGIN = 1e-4
_BLOCK_ROWS = 1024


class Rule(NamedTuple):
    """What is allowed at one step."""

    tolerance: float | None
    """How far the pick may fall short of the best score. None: no gain is left, and the lowest index is required."""
    decisive: bool
    """Whether only one pick is correct."""


class Replay:
    """The replay of DivPrune, MMR and IDPruner, which keep each row's largest similarity to a pick.

    Args:
        x: the tokens, ``[N, D]``.
        weight: relevance or importance, ``[N]``; None for DivPrune.
        lam: weight of relevance, in [0, 1].
        item: what verdicts name as their item.
        first_row: the number that the indices give row 0.
        scale_weight: True scales the weight to relevance, as IDPruner does.
    """

    def __init__(
        self,
        x: Tensor,
        weight: Tensor | None,
        lam: float,
        item: tuple[int, ...],
        first_row: int = 0,
        *,
        scale_weight: bool = False,
    ) -> None:
        x = x.cpu()
        weight = None if weight is None else weight.cpu().float()
        self.item = item
        self.first_row = first_row
        self.lam = lam
        self.finite = finite_rows(x, weight)
        # Non-finite rows influence nothing. As zero rows, they put no NaN into a product.
        self.x = torch.where(self.finite.unsqueeze(-1), x.double(), 0.0)
        self.raw_norm = self.x.norm(dim=-1)
        self.norm = self.raw_norm.clamp_min(SMALLEST_NORM)
        self.unselected = torch.ones(len(x), dtype=torch.bool, device="cpu")
        self.running_maximum = torch.full((len(x),), -torch.inf, dtype=torch.float64, device="cpu")
        self.relevance: Tensor | None = None
        if weight is not None:
            relevance = scaled_importance(weight, self.finite) if scale_weight else weight
            self.relevance = torch.where(self.finite, relevance.double(), 0.0)
        self.largest_shortfall = 0.0
        self.largest_tolerance = 0.0
        self.decisive = True
        self.started = False  # whether a finite row is selected

    def start_from(self, initial: Tensor) -> None:
        """Selects rows before the first pick, ``[M]``."""
        for row in initial.tolist():
            self.unselected[row] = False
            if self.finite[row]:
                self.started = True
                self._update(row, 0.0)

    def run(self, indices: Tensor, scores: Tensor | None) -> Verdict:
        """Judges the picks ``[k]`` of this item, and their reported scores ``[k]`` where there are any."""
        reported = None if scores is None else scores.tolist()
        for step, index in enumerate(indices.tolist()):
            wrong = self._judge_step(step, index, None if reported is None else reported[step])
            if wrong is not None:
                return wrong
        return Verdict(None, "", self.largest_shortfall, self.largest_tolerance, self.decisive, self.item)

    def _judge_step(self, step: int, index: int, reported: float | None) -> Verdict | None:
        """Replays one pick. Returns the verdict if it is wrong."""
        count, first_row = len(self.x), self.first_row
        pick = index - first_row
        if not 0 <= pick < count:
            return inexcusable(step, f"index {index} is not in [{first_row}, {first_row + count})", self.item)
        if not self.unselected[pick]:
            return inexcusable(step, f"index {index} is repeated", self.item)
        eligible = self.unselected & self.finite
        if eligible.any():
            eps = self._eps()
            score, wrong = self._judge_finite_pick(step, pick, eligible, eps)
        else:
            score, eps = -torch.inf, 0.0
            wrong = self._judge_non_finite_pick(step, pick)
        if wrong is None and reported is not None and reported != score and not self._agrees(reported, score, eps):
            reason = f"row {index} is reported with score {reported}, the replay has {score}"
            wrong = Verdict(step, reason, abs(reported - score), eps, False, self.item)
        self.unselected[pick] = False
        return wrong

    def _judge_non_finite_pick(self, step: int, pick: int) -> Verdict | None:
        """Judges a pick when only non-finite rows are left: they come in the order of their indices."""
        lowest = int(self.unselected.nonzero()[0])
        if pick == lowest:
            return None
        reason = f"non-finite row {pick + self.first_row} is picked before non-finite row {lowest + self.first_row}"
        return inexcusable(step, reason, self.item)

    def _judge_finite_pick(self, step: int, pick: int, eligible: Tensor, eps: float) -> tuple[float, Verdict | None]:
        """Judges a pick while finite rows are left. Returns its score, and the verdict if it is wrong."""
        index = pick + self.first_row
        if not self.finite[pick]:
            reason = f"non-finite row {index} is picked before a finite row"
            return -torch.inf, inexcusable(step, reason, self.item)
        rows, values = self._scores(pick, eligible)
        score = float(values[rows == pick])
        best, lead = _best_and_lead(values)
        rule = self._rule(best, lead, eps)
        if rule.tolerance is None:
            lowest = int(rows[0])
            if pick != lowest:
                reason = f"row {index} is picked where no row has a gain and row {lowest + self.first_row} comes first"
                return score, inexcusable(step, reason, self.item)
        else:
            shortfall = 0.0 if score == best else best - score
            if shortfall > rule.tolerance:
                better = int(rows[values.argmax()]) + self.first_row
                reason = f"row {index} is picked where row {better} is better"
                return score, Verdict(step, reason, shortfall, rule.tolerance, False, self.item)
            self.largest_shortfall = max(self.largest_shortfall, shortfall)
            self.largest_tolerance = max(self.largest_tolerance, rule.tolerance)
        self.decisive = self.decisive and rule.decisive
        self.started = True
        self._update(pick, score)
        return score, None

    def _eps(self) -> float:
        if self.relevance is None:
            return 1e-5
        largest = float(self.relevance.abs().max())
        return 1e-5 * max(1.0, self.lam * largest if self.started else largest)

    def _rule(self, best: float, lead: float, eps: float) -> Rule:
        """What is allowed where the best score is `best` and leads the runner-up by `lead`."""
        return Rule(tolerance=2 * eps, decisive=lead > 4 * eps)

    def _agrees(self, reported: float, score: float, eps: float) -> bool:
        """Whether a reported score can stand for that of the replay."""
        return abs(reported - score) <= eps

    def _update(self, pick: int, score: float) -> None:
        """Updates the state of all rows with one more pick."""
        self.running_maximum = torch.maximum(self.running_maximum, self._similarities(pick))

    def _scores(self, pick: int, eligible: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the eligible rows that can be best at this step, the pick among them, and their scores."""
        rows = eligible.nonzero().squeeze(-1)
        if self.relevance is None:
            return (rows, 1.0 - self.running_maximum[rows]) if self.started else self._first_distances(pick, rows)
        if not self.started:
            return rows, self.relevance[rows]
        return rows, self.lam * self.relevance[rows] - (1.0 - self.lam) * self.running_maximum[rows]

    def _first_distances(self, pick: int, rows: Tensor) -> tuple[Tensor, Tensor]:
        if len(rows) > EXACT_FIRST_PICK_ROWS:
            distance = self._nearest_distances(rows, torch.float32)
            contenders = rows[(distance >= distance.max() - _FLOAT32_MARGIN) | (rows == pick)]
            return contenders, self._nearest_distances(contenders, torch.float64)
        return rows, self._nearest_distances(rows, torch.float64)

    def _nearest_distances(self, rows: Tensor, dtype: torch.dtype) -> Tensor:
        """Returns the distance of each of the given rows to the nearest other finite row, block by block."""
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


class GainReplay(Replay):
    """The replay of a DPP: scores are gains, from a Cholesky factor that grows by a column with each pick."""

    def __init__(self, x: Tensor, weight: Tensor, item: tuple[int, ...], first_row: int = 0) -> None:
        weight = weight.float()
        # On a GPU, a negative relevance counts as 0.
        super().__init__(x, weight.masked_fill((weight < 0) & weight.isfinite(), 0.0), 1.0, item, first_row)
        assert self.relevance is not None
        self.quality = self.relevance
        self.gain = self.quality.square() * self_similarity(self.raw_norm)
        self.largest_gain = float(self.gain.max()) if len(self.gain) else 0.0
        self.columns: list[Tensor] = []

    def _eps(self) -> float:
        return NO_GAIN / 2 * self.largest_gain

    def _rule(self, best: float, lead: float, eps: float) -> Rule:
        # A gain below 2 eps counts as zero, and an implementation may be off by eps. Between 1 and 3 eps, the best gain
        # counts as zero for some implementations and not for others.
        if best <= eps:
            return Rule(tolerance=None, decisive=True)
        if best < 3 * eps:
            return Rule(tolerance=3 * eps, decisive=False)
        return Rule(tolerance=2 * eps, decisive=lead > 4 * eps)

    def _agrees(self, reported: float, score: float, eps: float) -> bool:
        if reported == 0.0 and -torch.inf < score <= 3 * eps:
            return True
        # A gain can overflow and underflow float32.
        least, most = torch.tensor([score - eps, score + eps], dtype=torch.float64, device="cpu").float().tolist()
        return least <= reported <= most

    def _update(self, pick: int, score: float) -> None:
        if score <= self._eps():
            return
        column = self.quality * self._similarities(pick) * self.quality[pick]
        for earlier in self.columns:
            column = column - earlier * earlier[pick]
        self.columns.append(column / score**0.5)
        self.gain = self.gain - self.columns[-1].square()

    def _scores(self, pick: int, eligible: Tensor) -> tuple[Tensor, Tensor]:
        rows = eligible.nonzero().squeeze(-1)
        return rows, self.gain[rows]


def _best_and_lead(values: Tensor) -> tuple[float, float]:
    """Returns the largest value and its lead over the second largest, infinite where there is no second."""
    top = values.topk(min(2, len(values))).values.tolist()
    if len(top) == 1:
        return top[0], torch.inf
    return top[0], 0.0 if top[0] == top[1] else top[0] - top[1]
