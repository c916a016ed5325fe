"""Arguments of the varlen operators, and contents that break their rules."""

import torch

from tests.support.inputs import ops
from tokenprune_kernels.methods import METHODS


def prefix_sums(*counts):
    return torch.tensor([0, *counts], dtype=torch.int32).cumsum(0, dtype=torch.int32)


def varlen_arguments(method, x, weight, cu_seqlens, cu_k, total_k, max_seqlen, lam=0.5):
    return METHODS[method].arguments(x, weight, (cu_seqlens, cu_k, total_k, max_seqlen), lam)


def select(method, *args, **kwargs):
    return getattr(ops, f"{method}_varlen").scores(*varlen_arguments(method, *args, **kwargs))


# Prefix sums of lengths and of kept rows, and how the error of each goes on; T = 12, total_k = 8, max_seqlen = 6.
HOSTILE = [
    ([1, 5, 9], [0, 1, 2], "cu_seqlens to start at 0, got 1"),
    ([0, 5, 4], [0, 1, 2], "cu_seqlens not to decrease, got 4 after 5 at position 2"),
    ([0, -5, 4], [0, 1, 2], "cu_seqlens not to decrease, got -5 after 0 at position 1"),
    ([0, 5, 13], [0, 1, 2], "cu_seqlens to end at or below T = 12, got 13"),
    ([0, 5, 2**31 - 1], [0, 1, 2], "cu_seqlens to end at or below T = 12, got 2147483647"),
    ([0, 5, 12], [0, 1, 2], "segments of at most max_seqlen = 6 rows, got 7 in segment 1"),
    ([0, 5, 9], [-1, 1, 2], "cu_k to start at 0, got -1"),
    ([0, 5, 9], [0, 2, 1], "cu_k not to decrease, got 1 after 2 at position 2"),
    ([0, 5, 9], [0, 5, 9], "cu_k to end at or below total_k = 8, got 9"),
    ([0, 2, 9], [0, 3, 4], "cu_k to keep at most the 2 rows of segment 0, got 3"),
]
