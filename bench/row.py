"""The rows of a result, and how they compare."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from bench.cases import Case
from bench.peers import OPERATOR
from bench.times import Times


@dataclass
class Row:
    """One implementation on one case; its fields are those of the JSON file.

    Attributes:
        how: how it was called, where the device knows several ways.
        correct: whether the float64 replay accepts its picks; None for what picks nothing, or was not run.
        note: why there is no time, or what is wrong with the picks.
        times: of one call.
        bound: the least milliseconds of a call. From here on, the operator only.
        fastest_correct_peer: the correct implementation among the others with the smallest median, and how it was
            called.
        ratio: its median over the operator's.
        fastest_peer: the one with the smallest median, right or wrong.
        ratio_to_fastest_peer: its median over the operator's.
        details: what only this device measures.
    """

    kind: str
    tokens: str
    size: str
    dtype: str
    method: str
    implementation: str
    how: str = ""
    correct: bool | None = None
    note: str = ""
    times: Times | None = None
    bound: float | None = None
    fastest_correct_peer: str | None = None
    ratio: float | None = None
    fastest_peer: str | None = None
    ratio_to_fastest_peer: float | None = None
    details: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def on(cls, case: Case, implementation: str, how: str = "") -> Row:
        tokens = case.tokens
        return cls(tokens.kind, tokens.name, tokens.size, case.dtype_name, case.method, implementation, how)

    @classmethod
    def read(cls, fields: dict[str, Any]) -> Row:
        """From the JSON file."""
        return cls(**{**fields, "times": fields["times"] and Times(**fields["times"])})

    @property
    def case(self) -> tuple[str, ...]:
        """What it has in common with its peers."""
        return self.kind, self.tokens, self.size, self.dtype, self.method

    @property
    def ours(self) -> bool:
        return self.implementation == OPERATOR.name

    @property
    def name(self) -> str:
        """The implementation, and how it was called."""
        return ", ".join(filter(None, (self.implementation, self.how)))


def compare(rows: list[Row]) -> None:
    """Sets each operator against its peers."""
    for row in rows:
        if not row.ours or row.times is None:
            continue
        peers = [
            (other.times.median, other.name, other.correct)
            for other in rows
            if other.case == row.case and not other.ours and other.times is not None and other.correct is not None
        ]
        if peers:
            median, row.fastest_peer, _ = min(peers)
            row.ratio_to_fastest_peer = median / row.times.median
        correct_peers = [peer for peer in peers if peer[2]]
        if correct_peers:
            median, row.fastest_correct_peer, _ = min(correct_peers)
            row.ratio = median / row.times.median
