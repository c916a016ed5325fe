"""A Triton driver that compiles for a GPU and counts launches: no device is needed, and nothing is computed."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.backends.nvidia import driver as nvidia

from tokenprune_kernels.backends.triton import runtime

MULTIPROCESSORS = 132
SHARED_MEMORY = 232_448


@dataclass(slots=True)
class Launch:
    """A launch that was counted: its kernel, the size of its grid, and the arguments of the kernel."""

    kernel: str
    programs: int
    arguments: tuple[Any, ...]


class _Launcher:
    """What Triton makes of a compiled kernel to launch it by."""

    def __init__(self, source: Any, metadata: Any) -> None:
        self.name = metadata.name
        if triton.runtime.driver.active.with_launchers and hasattr(nvidia, "make_launcher"):
            # Triton 3.6 compiles a launcher in C for each signature. Without a driver to link with, it cannot.
            with contextlib.suppress(Exception):
                nvidia.CudaLauncher(source, metadata)

    def __call__(self, programs: int, y: int, z: int, stream: int, *rest: Any) -> None:
        # Function, metadata and hooks come before the arguments. A kernel that was compiled under an earlier stand-in
        # counts for the current one.
        triton.runtime.driver.active.launches.append(Launch(self.name, programs, rest[5:]))


@dataclass
class StandIn:
    """In the place of Triton's CUDA driver.

    Attributes:
        architecture: that is compiled for, such as 90.
        with_launchers: whether launchers are compiled too, into Triton's cache.
        launches: those so far.
    """

    architecture: int = 90
    with_launchers: bool = False
    launches: list[Launch] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.launcher_cls = _Launcher
        self.utils = SimpleNamespace(
            load_binary=lambda *_: (1, 2, 32, 0, 1_024),
            get_device_properties=lambda _: {"max_shared_mem": SHARED_MEMORY, "multiprocessor_count": MULTIPROCESSORS},
        )

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", self.architecture, 32)

    def get_active_torch_device(self) -> torch.device:
        return torch.device("cpu")

    def set_current_device(self, device: int) -> None:
        pass


@contextlib.contextmanager
def stand_in_device(architecture: int = 90, *, with_launchers: bool = False) -> Iterator[StandIn]:
    """Has the Triton backend compile for a GPU, from tensors on the CPU, and count launches instead of making them."""
    before, driver = triton.runtime.driver.__dict__.get("_active"), StandIn(architecture, with_launchers)
    number = architecture if architecture in (80, 90, 100) else 80
    replaced = {
        "multiprocessors": lambda device: MULTIPROCESSORS,
        "architecture": lambda device: number,
        "cooperative_grid": lambda config, x: (config.programs * MULTIPROCESSORS, runtime.COOPERATIVE_OPTIONS),
        "_compiled": set(),
    }
    triton.runtime.driver.set_active(driver)
    try:
        with mock.patch.multiple(runtime, **replaced):
            yield driver
    finally:
        triton.runtime.driver.set_active(before)
