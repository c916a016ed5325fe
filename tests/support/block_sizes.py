"""The native backend with block sizes of a test's choice."""

import contextlib
from typing import NamedTuple

import torch

from tests.support.inputs import arguments, clustered_tokens, ops

COUNT = 150
NEVER = 10 * COUNT


class BlockSizes(NamedTuple):
    """The sizes of csrc/cpu/selection/block_sizes.h. 0 leaves the backend's choice."""

    frontier: int = 0
    picks_per_update: int = 0
    candidates: int = 0
    outlier_block: int = 0
    pruned_chunk: int = 0
    signature_after: int = 0
    grouped_rows: int = 0


# With a frontier of one row, the selection is the plain lazy greedy loop.
PLAIN = BlockSizes(1, 64, 1, COUNT, COUNT, NEVER)


@contextlib.contextmanager
def block_sizes(sizes):
    force = torch.ops.tokenprune_native._force_block_sizes
    force(**sizes._asdict())
    try:
        yield
    finally:
        force()


def with_broken_rows():
    x = clustered_tokens(COUNT, 24, clusters=9)
    x[3::10] = torch.nan
    x[5::10] = 0.0
    return x


def scored(method, x, weight, k, lam=0.5, initial=None):
    indices, scores = getattr(ops, method).scores(*arguments(method, x, weight, k, lam, initial))
    return indices, scores.view(torch.int32)
