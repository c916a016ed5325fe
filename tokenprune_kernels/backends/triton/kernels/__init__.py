"""The Triton kernels of the selection. README.md, one folder up, explains the algorithm and names each file.

A segment is an item of a batch, or a segment of a packed ragged batch. Every kernel runs over segments. The rows of a
segment start at ``first_row`` of the tokens and at ``workspace_row`` of the workspaces. Its picks start at ``out_row``
of the result. In the workspaces, segments follow one another, each padded to a multiple of ROW_ALIGNMENT rows.

A dense batch is worked through in slices that begin at ``first_segment``. A ragged batch is one slice, described by its
plan (segments.py); then ``first_segment``, ``count`` and ``k`` are 0.

Sizes that may change from call to call are plain arguments and never specialised. Strides and D come in units of
ALIGNMENT or ROW_ALIGNMENT elements (``d_units``), which shows the compiler their divisibility, so that loads are 16
bytes wide.
"""

from .cross_similarity import cross_similarity_kernel
from .dpp import dpp_kernel
from .first_pick import first_pick_kernel, outlier_kernel
from .greedy import greedy_kernel
from .lazy_greedy import SPLIT_BLOCKS, lazy_greedy_kernel
from .norms import NORM_BLOCK_N, row_norm_kernel
from .segments import PLAN_COLUMNS, ROW_ALIGNMENT, plan_kernel
from .similarity import CHUNK, similarity_kernel
from .state import STATE_COLUMNS

__all__ = [
    "CHUNK",
    "NORM_BLOCK_N",
    "PLAN_COLUMNS",
    "ROW_ALIGNMENT",
    "SPLIT_BLOCKS",
    "STATE_COLUMNS",
    "cross_similarity_kernel",
    "dpp_kernel",
    "first_pick_kernel",
    "greedy_kernel",
    "lazy_greedy_kernel",
    "outlier_kernel",
    "plan_kernel",
    "row_norm_kernel",
    "similarity_kernel",
]
