"""Which backend runs an operator, and why another one cannot."""

from __future__ import annotations

import contextlib
import contextvars
import importlib.metadata
import os
import platform
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from . import torch_release
from .backends import native, triton
from .version import __version__


class Backend(Protocol):
    """What a backend module offers."""

    def unavailable(self, device_type: str) -> str | None:
        """Why the backend cannot run on tensors of this device type; None when it can."""

    def operator(self, name: str, overload: str) -> Callable[..., Any]:
        """The backend's form of an operator, with the arguments of its declaration."""

    # What a selection over several processes is made of, with the bits of a selection in one.

    def instruction_set(self, x: Tensor) -> str:
        """What the bits of similarities depend on."""

    def reciprocal_norms(self, x: Tensor) -> Tensor:
        """The reciprocal norm of each row of x ``[N, D]``, float32 ``[N]``; 0 for a row that is not finite."""

    def similarities(self, x: Tensor, norms_x: Tensor, y: Tensor, norms_y: Tensor) -> Tensor:
        """Those of the rows of x to the rows of y, given their reciprocal norms: float32 ``[N of x, N of y]``.

        A row that is not finite may have any.
        """

    def outliers(self, x: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """The finite rows of x whose nearest other rows are farthest, best first, and these distances, float32."""


BACKENDS: dict[str, Backend] = {"native": native, "triton": triton}
_COMPILED = (native,)  # those that register operators in a namespace of their own, for runtimes without Python
_AUTO = {"cpu": "native", "cuda": "triton"}
_CHOICES = ("auto", *BACKENDS)
_DEFAULT = os.environ.get("TOKENPRUNE_BACKEND") or "auto"

_chosen = contextvars.ContextVar("tokenprune_backend", default=_DEFAULT)


def _unknown(source: str, name: str) -> str:
    return f"{source}: expected one of {', '.join(_CHOICES)}, got {name!r}"


@contextlib.contextmanager
def use_backend(name: str) -> Iterator[None]:
    """Runs the operators that are called inside the ``with`` block on one backend.

    It holds for the current thread (a context variable), and also for calls of functions that were compiled earlier.
    The block itself stays outside compiled regions. Without it, the environment variable ``TOKENPRUNE_BACKEND``
    chooses, read at import, and by default ``"auto"``.

    Args:
        name: ``"native"`` (the compiled extension, CPU tensors), ``"triton"`` (CUDA tensors, or CPU tensors in Triton's
            interpreter), or ``"auto"``: native on CPU tensors, triton on CUDA tensors.

    Returns:
        A context manager, whose blocks nest. Leaving a block restores the backend from before it.

    Raises:
        ValueError: for an unknown name.
        RuntimeError: when an operator is called that the named backend cannot run, with the reason. Nothing falls back
            in silence.

    Example:
        >>> import torch
        >>> import tokenprune_kernels
        >>> with tokenprune_kernels.use_backend("native"):
        ...     tokenprune_kernels.divprune(torch.eye(3), 2)
        tensor([0, 1])
    """
    if name not in _CHOICES:
        raise ValueError(_unknown("use_backend", name))
    token = _chosen.set(name)
    try:
        yield
    finally:
        _chosen.reset(token)


def declare(name: str, overload: str, schema: str, fake: Callable[..., Any]) -> None:
    """Tells the compiled backends of a declared overload, which theirs has to match.

    Args:
        name: of the operator.
        overload: ``"default"`` or ``"scores"``.
        schema: as declared, without the namespace.
        fake: the overload's implementation on fake tensors.
    """
    for backend in _COMPILED:
        backend.declare(name, overload, schema, fake)


def operator(name: str, overload: str, device_type: str) -> Callable[..., Any]:
    """The form of an operator that runs on tensors of this device type; RuntimeError where there is none."""
    return BACKENDS[backend_of(name, device_type)].operator(name, overload)


def backend_of(name: str, device_type: str) -> str:
    """The name of the backend that runs an operator on tensors of this device type; RuntimeError where none can."""
    chosen = _chosen.get()
    if device_type not in _AUTO:
        raise RuntimeError(f"{name}: expected tensors on a device of {', '.join(_AUTO)}, got {device_type}")
    backend_name = _AUTO[device_type] if chosen == "auto" else chosen
    backend = BACKENDS.get(backend_name)
    if backend is None:
        raise ValueError(_unknown("TOKENPRUNE_BACKEND", chosen))
    reason = backend.unavailable(device_type)
    if reason is not None:
        raise RuntimeError(f"{name}: backend '{backend_name}' cannot run on {device_type} tensors: {reason}")
    return backend_name


def build_info() -> dict[str, Any]:
    """Says what is installed and what can run here.

    Returns:
        A dictionary that JSON can hold: ``versions`` (package, torch, triton, transformers, python), the newest torch
        that the package was tried with (``newest_torch_tried``), the ``platform``,
        the ``location`` of the package, the ``torch_build`` (its source, and the CUDA or HIP that it was built for),
        the numbers of ``threads`` (torch's, and the processors that this process may run on), ``default_backend``, and
        ``backends``. Each backend has ``unavailable``, by device type None or the reason. ``native`` also has the
        ``file`` of the extension, the ``torch`` and the ``compiler`` that it was built with, the instruction set in use
        (``isa``), the one that each dtype takes (``isa_by_dtype``) and the ``supported_isas``.

    Example:
        >>> import tokenprune_kernels
        >>> tokenprune_kernels.build_info()["backends"]["native"]["unavailable"]["cuda"]
        'it runs on CPU tensors only'
    """
    backends: dict[str, dict[str, Any]] = {
        name: {"unavailable": {device_type: backend.unavailable(device_type) for device_type in _AUTO}}
        for name, backend in BACKENDS.items()
    }
    backends["native"].update(native.build_info())
    return {
        "versions": {
            "tokenprune_kernels": __version__,
            "torch": torch.__version__,
            "triton": _version("triton"),
            "transformers": _version("transformers"),
            "python": platform.python_version(),
        },
        "newest_torch_tried": torch_release.NEWEST_TRIED,
        "platform": platform.platform(),
        "location": str(Path(__file__).parent),
        "torch_build": {
            "cuda": torch.version.cuda,
            "hip": torch.version.hip,
            "debug": torch.version.debug,
            "source": torch.version.git_version,
        },
        "threads": {"torch": torch.get_num_threads(), "available_processors": _available_processors()},
        "default_backend": _chosen.get(),
        "backends": backends,
    }


def _available_processors() -> int | None:
    affinity = getattr(os, "sched_getaffinity", None)  # Linux has it
    return len(affinity(0)) if affinity else os.cpu_count()


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None
