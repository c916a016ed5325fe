"""What all forms share at run time: the settings, the facts about a device, and the launch of a kernel."""

from __future__ import annotations

import contextlib
import contextvars
import dataclasses
import functools
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import torch
import triton
from torch import Tensor

from . import configs

OPTIONS = {"enable_fp_fusion": False}
"""Compile options of every kernel. Without fusion, a score is rounded in the same way wherever it is computed."""

COOPERATIVE_OPTIONS = {"launch_cooperative_grid": True}
"""Options of a cooperative launch, which fails unless all programs can be resident at once."""

_FORMS = ("materialised", "lazy_greedy", "dpp")
_ANY_ALIGNMENT = ("weight", "cu_seqlens", "cu_k")  # tensors whose alignment no kernel is specialised on
_OLDEST_ARCHITECTURE = 80
_CHECKED_ARCHITECTURES = (80, 90, 100)  # the machine code for these is tested
_INTERPRETED = bool(triton.knobs.runtime.interpret)
_INTERPRETED_ARCHITECTURE = 90
_INTERPRETED_MULTIPROCESSORS = 2


@dataclass(frozen=True)
class Settings:
    """How the backend works. The picks are the same, to the bit, under any settings.

    Attributes:
        workspace_limit: the most bytes of similarities at a time.
        form: ``"materialised"``, ``"lazy_greedy"`` or ``"dpp"``, taken by every method that has it, whatever the sizes.
            None chooses by the sizes.
        max_candidates: the most candidates of a lazy greedy round. None leaves it to the configuration.
        max_rounds: after this many lazy greedy rounds, a round has one candidate and makes one pick.
        skipped_kernels: names of kernels that are not launched. What they would have written is not written. This is
            for benchmarks, which time a selection up to each of its stages.
    """

    workspace_limit: int = field(default_factory=configs.workspace_limit)
    form: str | None = None
    max_candidates: int | None = None
    max_rounds: int = 2**31 - 1
    skipped_kernels: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        if self.form is not None and self.form not in _FORMS:
            raise ValueError(f"Settings: form: expected one of {', '.join(_FORMS)}, got {self.form!r}")


_default = Settings()  # of the process, for every thread
_changes: contextvars.ContextVar[Mapping[str, Any]] = contextvars.ContextVar("changes", default=MappingProxyType({}))
_compiled: set[tuple[Any, ...]] = set()
_handles: dict[tuple[Any, ...], Any] = {}  # the compiled kernel of each bucket


def current() -> Settings:
    """The settings of the process, with the changes of the current context."""
    changes = _changes.get()
    return dataclasses.replace(_default, **changes) if changes else _default


def set_default(**changes: Any) -> Settings:
    """Changes the settings of the process, in every thread. Returns those before.

    Args:
        changes: fields of `Settings`.
    """
    global _default
    before, _default = _default, dataclasses.replace(_default, **changes)
    return before


@contextlib.contextmanager
def settings(**changes: Any) -> Iterator[None]:
    """Changes settings for the ``with`` block, in the current context alone: other threads keep theirs.

    Args:
        changes: fields of `Settings`. Other fields still follow the process.
    """
    dataclasses.replace(current(), **changes)  # raises if a field is unknown or its value is
    token = _changes.set(MappingProxyType({**_changes.get(), **changes}))
    try:
        yield
    finally:
        _changes.reset(token)


def launch(
    kernel: Any,
    programs: int,
    tensors: dict[str, Tensor | None],
    sizes: dict[str, Any],
    constants: dict[str, Any],
    **options: int,
) -> Any:
    """Launches a kernel. Nothing here waits for the device.

    Args:
        kernel: of `kernels`.
        programs: the size of the grid.
        tensors: its tensors by name.
        sizes: its sizes and other numbers, which are not specialised.
        constants: its compile-time constants.
        options: ``num_warps`` and others.

    Returns:
        The compiled kernel. None in the interpreter, and for a kernel that is skipped.

    Raises:
        RuntimeError: a CUDA graph is being captured, and this kernel has not been compiled for this kind of arguments.
    """
    if kernel.__name__ in current().skipped_kernels:
        return None
    bucket = (
        kernel,
        *(
            None if t is None else (t.device, t.dtype, name in _ANY_ALIGNMENT or t.data_ptr() % 16 == 0)
            for name, t in tensors.items()
        ),
        *(isinstance(size, int) and size >= 2**31 for size in sizes.values()),
        *constants.items(),
        *options.items(),
    )
    compiled = _handles.get(bucket) if bucket in _compiled else None
    if compiled is not None and not _has_launch_hooks():
        given = tensors | sizes | constants
        arguments = [given[name] for name in kernel.arg_names]
        handle = (compiled.function, compiled.packed_metadata, None, None, None)
        device = next(t.device for t in tensors.values() if t is not None)
        compiled.run(programs, 1, 1, current_stream(device), *handle, *arguments)
        return compiled
    if bucket not in _compiled and torch.cuda.is_available() and torch.cuda.is_current_stream_capturing():
        raise RuntimeError(
            f"{kernel.__name__}: expected a bucket compiled before the capture, got a new one; run the operator "
            "once on this kind of input, or tokenprune_kernels.warmup, before capturing"
        )
    compiled = kernel[(programs,)](**tensors, **sizes, **constants, **options, **OPTIONS)
    _compiled.add(bucket)
    if compiled is not None:
        _handles[bucket] = compiled
    return compiled


def is_recordable() -> bool:
    """Whether calls may be made from records: with the settings of the process, and without hooks in Triton."""
    return not _changes.get() and not _INTERPRETED and not _has_launch_hooks()


def _has_launch_hooks() -> bool:
    """Whether Triton is to call something at each launch, as profilers ask for."""
    hooks = triton.knobs.runtime.launch_enter_hook, triton.knobs.runtime.launch_exit_hook
    return any(getattr(hook, "calls", hook) for hook in hooks)


def current_stream(device: torch.device) -> int:
    """The stream to launch on, as Triton's launchers take it."""
    return int(triton.runtime.driver.active.get_current_stream(device.index or 0))


_NOTHING = contextlib.nullcontext()


def on_device(x: Tensor) -> contextlib.AbstractContextManager[Any]:
    """Makes the tensor's device the current one, which is where Triton launches."""
    if not x.is_cuda or x.device.index == torch.cuda.current_device():
        return _NOTHING
    return torch.cuda.device(x.device)


@functools.cache
def architecture(device: torch.device) -> int:
    """The architecture that configurations are chosen for: the device's if its machine code is tested, or the oldest.

    Raises:
        RuntimeError: the device is older than compute capability 8.0.
    """
    if device.type != "cuda":
        return _INTERPRETED_ARCHITECTURE
    major, minor = torch.cuda.get_device_capability(device)
    number = 10 * major + minor
    if torch.version.hip is None and number < _OLDEST_ARCHITECTURE:
        raise RuntimeError(f"triton backend: expected compute capability 8.0 or newer, got {major}.{minor}")
    return number if number in _CHECKED_ARCHITECTURES else _OLDEST_ARCHITECTURE


@functools.cache
def multiprocessors(device: torch.device) -> int:
    """How many multiprocessors the device has."""
    if device.type != "cuda":
        return _INTERPRETED_MULTIPROCESSORS
    return torch.cuda.get_device_properties(device).multi_processor_count


_refused: set[tuple[configs.CooperativeConfig, torch.device]] = set()


def cooperative_grid(config: configs.CooperativeConfig, x: Tensor) -> tuple[int, dict[str, Any]]:
    """The number of programs of a cooperative launch, and its options."""
    if not x.is_cuda:
        # The interpreter runs programs one after another, so that a second one would never arrive at a barrier.
        return 1, {}
    programs = 1 if (config, x.device) in _refused else config.programs
    return programs * multiprocessors(x.device), COOPERATIVE_OPTIONS


def is_too_large(error: RuntimeError) -> bool:
    """Whether a launch was refused because its programs cannot all be resident at once."""
    return "too many blocks in cooperative launch" in str(error)


def refuse(config: configs.CooperativeConfig, device: torch.device) -> bool:
    """From now on launches one program a multiprocessor. Returns False if it was one already."""
    if config.programs == 1 or (config, device) in _refused:
        return False
    _refused.add((config, device))
    warnings.warn(
        f"triton backend: the device holds fewer than {config.programs} programs of a cooperative launch on a "
        "multiprocessor; there will be one, which is slower",
        RuntimeWarning,
        stacklevel=2,
    )
    return True
