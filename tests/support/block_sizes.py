"""The native backend with block sizes of a test's choice."""

import contextlib

import torch

from tests.support.inputs import arguments, clustered_tokens, ops

COUNT = 150
# Rows of the front, picks they take in at a time, candidates, rows of an outlier block, rows compared with survivors at
# a time, picks that a row must lack before its signature is asked. A front of one row is the plain loop.
NEVER = 10 * COUNT
PLAIN = (1, 64, 1, COUNT, COUNT, NEVER)


@contextlib.contextmanager
def block_sizes(*sizes):
    force = torch.ops.tokenprune_native._force_block_sizes
    force(*sizes)
    try:
        yield
    finally:
        force(0, 0, 0, 0, 0, 0)


def with_broken_rows():
    x = clustered_tokens(COUNT, 24, clusters=9)
    x[3::10] = torch.nan
    x[5::10] = 0.0
    return x


def scored(method, x, weight, k, lam=0.5):
    indices, scores = getattr(ops, method).scores(*arguments(method, x, weight, k, lam))
    return indices, scores.view(torch.int32)
