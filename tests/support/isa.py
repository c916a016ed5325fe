"""The native backend on an instruction set of a test's choice, in this process."""

import contextlib

import torch

import tokenprune_kernels


def native_build():
    return tokenprune_kernels.build_info()["backends"]["native"]


@contextlib.contextmanager
def instruction_set(name):
    """Has the native backend use this set. Afterwards it is the one that it was before."""
    before = native_build()["isa"]
    force = torch.ops.tokenprune_native._force_isa
    force(name)
    try:
        yield
    finally:
        force(before)
