"""What a selection over several processes asks of the backend: norms of rows, similarities of any rows, outliers.

The bits are those of a selection in one process, whose kernels have the same norms and the same dot products.
"""

from __future__ import annotations

import torch
import triton
from torch import Tensor

from . import configs, kernels, runtime
from .forms.base import Tokens, ceil_div, tile_constants, with_unit_stride


def instruction_set(x: Tensor) -> str:
    """What the bits of similarities depend on: the compiler, and the device.

    Raises:
        RuntimeError: the device is older than compute capability 8.0.
    """
    runtime.architecture(x.device)
    if not x.is_cuda:
        return f"triton {triton.__version__}, interpreted"
    major, minor = torch.cuda.get_device_capability(x.device)
    return f"triton {triton.__version__}, compute capability {major}.{minor}"


def reciprocal_norms(x: Tensor) -> Tensor:
    """The reciprocal norm of each row of x ``[N, D]``, float32 ``[N]``; 0 for a row that is not finite."""
    norms = x.new_empty(len(x), dtype=torch.float32)
    tokens = Tokens.of_rows(x)
    blocks = ceil_div(len(x), kernels.NORM_BLOCK_N.value)
    if blocks > 0:
        with runtime.on_device(x):
            runtime.launch(
                kernels.row_norm_kernel,
                blocks,
                {"x": tokens.x, "weight": None, "plan": None, "reciprocal_norm": norms, "relevance": None},
                {"first_segment": 0, "count": len(x), "blocks": blocks} | tokens.sizes(),
                {"HAS_WEIGHT": False, "VARLEN": False, "ALIGNMENT": tokens.alignment},
            )
    return norms


def similarities(x: Tensor, norms_x: Tensor, y: Tensor, norms_y: Tensor) -> Tensor:
    """The similarities of the rows of x to those of y, given their reciprocal norms: float32 ``[N of x, N of y]``."""
    made = x.new_empty((len(x), len(y)), dtype=torch.float32)
    if made.numel() == 0:
        return made
    tokens_x, tokens_y, d = Tokens.of_rows(x), Tokens.of_rows(y), x.shape[1]
    alignment = min(tokens_x.alignment, tokens_y.alignment)
    config = configs.cross_similarity_config(x.element_size(), tokens_x.is_aligned and tokens_y.is_aligned)
    with runtime.on_device(x):
        runtime.launch(
            kernels.cross_similarity_kernel,
            ceil_div(len(x), config.block_n) * ceil_div(len(y), config.block_n),
            {"x": tokens_x.x, "y": tokens_y.x, "norm_x": norms_x, "norm_y": norms_y, "similarity": made},
            {
                "count_x": len(x),
                "count_y": len(y),
                "d_units": d // alignment,
                "stride_xn": tokens_x.stride_xn // alignment,
                "stride_yn": tokens_y.stride_xn // alignment,
            },
            {"ALIGNMENT": alignment} | tile_constants(config, d),
            num_warps=config.num_warps,
            num_stages=config.num_stages,
        )
    return made


def outliers(x: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The finite rows of x whose nearest other rows are farthest, best first, and these distances, float32.

    All pairs of rows are compared, so many rows at a time that the similarities stay below the workspace limit.
    """
    x = with_unit_stride(x)
    norms = reciprocal_norms(x)
    nearest = torch.empty_like(norms)
    step = max(1, runtime.current().workspace_limit // (4 * max(1, len(x))))
    for first in range(0, len(x), step):
        some = slice(first, first + step)
        to_all = similarities(x[some], norms[some], x, norms)
        to_all.diagonal(first).fill_(-torch.inf)  # a row is not its own neighbour
        nearest[some] = to_all.amax(dim=1)
        del to_all  # before the next ones are made
    finite = norms > 0
    distances = torch.where(finite, 1.0 - nearest, -torch.inf)
    distances, rows = distances.sort(descending=True, stable=True)  # of equals, the lowest first
    most = min(count, int(finite.sum()))
    return rows[:most], distances[:most]
