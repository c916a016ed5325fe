"""The rows of a result, and how they compare."""

from __future__ import annotations

from dataclasses import dataclass

from bench.times import Times

from .cases import Case
from .implementations import OPERATOR


@dataclass
class Row:
    """One implementation on one case; its fields are those of the JSON file.

    Attributes:
        correct: whether the float64 replay accepts its picks; None for what was not run.
        note: why there is no time, or what is wrong with the picks.
        times: of one call.
        bound: the least milliseconds of a call (``bench.cpu.bound``). From here on, the operator only.
        fastest_correct_peer: the correct implementation among the others with the smallest median.
        ratio: its median over the operator's.
        fastest_peer: the one with the smallest median, right or wrong.
        ratio_to_fastest_peer: its median over the operator's.
    """

    kind: str
    tokens: str
    size: str
    dtype: str
    method: str
    implementation: str
    correct: bool | None = None
    note: str = ""
    times: Times | None = None
    bound: float | None = None
    fastest_correct_peer: str | None = None
    ratio: float | None = None
    fastest_peer: str | None = None
    ratio_to_fastest_peer: float | None = None

    @classmethod
    def on(cls, case: Case, implementation: str) -> Row:
        tokens = case.tokens
        return cls(tokens.kind, tokens.name, tokens.size, case.dtype_name, case.method, implementation)

    @property
    def case(self) -> tuple[str, ...]:
        """What it has in common with its peers."""
        return self.kind, self.tokens, self.size, self.dtype, self.method


def compare(rows: list[Row]) -> None:
    """Sets each operator against its peers."""
    for row in rows:
        if row.implementation != OPERATOR.name or row.times is None:
            continue
        peers = [
            (other.times.median, other.implementation, other.correct)
            for other in rows
            if other.case == row.case and other is not row and other.times is not None
        ]
        if peers:
            median, row.fastest_peer, _ = min(peers)
            row.ratio_to_fastest_peer = median / row.times.median
        correct_peers = [peer for peer in peers if peer[2]]
        if correct_peers:
            median, row.fastest_correct_peer, _ = min(correct_peers)
            row.ratio = median / row.times.median
