"""The state that the programs of a grid share, int32 ``[segments + 1, STATE_COLUMNS]``, all 0 before the launch.

A segment has one row. The last row belongs to the whole grid.
"""

import triton.language as tl

STATE_COLUMNS = tl.constexpr(8)

# Columns of a segment's row.
PICKS = tl.constexpr(0)  # how many picks are made
PICKS_SEEN = tl.constexpr(1)  # how many of them the keys include
CANDIDATE_COUNT = tl.constexpr(2)
BEST_OUTSIDE_KEY = tl.constexpr(3)  # the key of the best row that is no candidate
BEST_OUTSIDE_ROW = tl.constexpr(4)
ARRIVAL_COUNTER = tl.constexpr(5)
OUTLIER_KEY = tl.constexpr(6)  # the key of the top outlier so far
OUTLIER_ROW = tl.constexpr(7)

# Columns of the last row. The first two are arrival counters of the whole grid.
OUTLIER_BARRIER = tl.constexpr(0)
LAZY_GREEDY_BARRIER = tl.constexpr(1)
OPEN_SELECTIONS = tl.constexpr(2)  # segments that need more picks
OPEN_SEARCHES = tl.constexpr(3)  # segments without a first pick: three columns, one a round
