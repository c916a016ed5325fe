"""The Triton kernels: plan of a ragged batch, row norms, similarities, first picks, greedy selection.

Every kernel runs over "segments": the items of a batch, or the segments of a packed ragged batch. A segment's rows
start at ``first_row`` of the tokens and at ``workspace_row`` of the workspaces, in which segments lie one after the
other, each padded to a multiple of ROW_ALIGNMENT rows. A batch is worked through in slices that begin at
``first_segment``, a ragged batch at once, by its plan; then ``first_segment``, ``count`` and ``k`` are 0. The sizes
that may change from call to call are plain arguments, never specialised; strides come in units of ALIGNMENT or
ROW_ALIGNMENT elements, so that the compiler sees their divisibility all the same and moves 16 bytes at a time.

Two forms give the same bits. The materialised one is `similarity_kernel`, then `greedy_kernel`. The candidate blocks
are `first_pick_kernel` or `outlier_kernel`, then `candidate_kernel`; the latter two wait for all their programs between
phases, so those have to be resident at once. So does `dpp_kernel`, the one form of the DPP.
"""

from .dpp import dpp_kernel
from .first_pick import first_pick_kernel, outlier_kernel
from .greedy import greedy_kernel
from .lazy_greedy import SPLIT_BLOCKS, candidate_kernel
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
    "candidate_kernel",
    "dpp_kernel",
    "first_pick_kernel",
    "greedy_kernel",
    "outlier_kernel",
    "plan_kernel",
    "row_norm_kernel",
    "similarity_kernel",
]
