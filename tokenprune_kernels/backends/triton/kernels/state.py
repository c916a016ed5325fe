"""What the programs of a grid know about a segment, int32 ``[segments + 1, STATE_COLUMNS]``, all 0 before the launch.

The last row is about all segments.
"""

import triton.language as tl

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
