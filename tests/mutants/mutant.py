"""One fault that somebody could make."""

from typing import NamedTuple


class Mutant(NamedTuple):
    """One change: the text that is there, what takes its place, and what breaks."""

    name: str
    room: str
    file: str
    old: str
    new: str
    breaks: str
    isa: str = ""  # the instruction set that a machine needs to notice it
