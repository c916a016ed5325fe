"""What the programs of a grid know about a segment, int32 ``[segments + 1, STATE_COLUMNS]``, all 0 before the launch.

The last row is about all segments.
"""

import triton
import triton.language as tl

from .scores import score_of

STATE_COLUMNS = tl.constexpr(8)

# Columns of a segment.
PICKS = tl.constexpr(0)  # so many are made,
TAKEN_IN = tl.constexpr(1)  # and so many of them are in the keys
CANDIDATES = tl.constexpr(2)
OUTSIDE_KEY = tl.constexpr(3)  # of the best row that is no candidate
OUTSIDE_ROW = tl.constexpr(4)
TICKETS = tl.constexpr(5)
OUTLIER_KEY = tl.constexpr(6)  # of the top outlier so far
OUTLIER_ROW = tl.constexpr(7)

# Columns of the last row.
OUTLIER_ARRIVALS = tl.constexpr(0)
CANDIDATE_ARRIVALS = tl.constexpr(1)
OPEN_SELECTIONS = tl.constexpr(2)
OPEN_SEARCHES = tl.constexpr(3)  # three columns, used in turn


@triton.jit
def comes_before(key, row, other_key, other_row):
    """The order of picks: the larger key, then the lower row."""
    return (key > other_key) | ((key == other_key) & (row < other_row))


@triton.jit
def pick_first(of_segment, of_all, indices, scores, first_row, kept, key, row, WITH_SCORES: tl.constexpr):
    """Writes a segment's first pick; its other rows wait for the candidate blocks."""
    tl.store(indices, first_row + row)
    if WITH_SCORES:
        tl.store(scores, score_of(key))
    tl.store(of_segment + PICKS, 1)
    if kept > 1:
        tl.atomic_add(of_all + OPEN_SELECTIONS, 1, sem="relaxed")
