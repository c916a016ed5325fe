"""Which backend runs an operator, and why another one cannot."""

from __future__ import annotations

import contextlib
import contextvars
import importlib.metadata
import os
import platform
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import torch

from .backends import native, triton
from .version import __version__


class Backend(Protocol):
    """What a backend module offers."""

    def unavailable(self, device_type: str) -> str | None:
        """Why the backend cannot run on tensors of this device type; None when it can."""

    def operator(self, name: str, overload: str) -> Callable[..., Any]:
        """The backend's form of an operator, with the arguments of its declaration."""


class _Absent:
    """A backend that this version of the package does not contain."""

    def __init__(self, reason: str) -> None:
        self._reason = reason

    def unavailable(self, device_type: str) -> str | None:
        return self._reason

    def operator(self, name: str, overload: str) -> Callable[..., Any]:
        raise NotImplementedError(self._reason)


BACKENDS: dict[str, Backend] = {
    "native": native,
    "triton": triton,
    "cuda": _Absent("this version of tokenprune_kernels has no cuda backend"),
}
_COMPILED = (native,)  # those that register operators in a namespace of their own, for runtimes without Python
_AUTO = {"cpu": "native", "cuda": "triton"}
_CHOICES = ("auto", *BACKENDS)
_DEFAULT = os.environ.get("TOKENPRUNE_BACKEND") or "auto"

_chosen = contextvars.ContextVar("tokenprune_backend", default=_DEFAULT)


def _unknown(source: str, name: str) -> str:
    return f"{source}: expected one of {', '.join(_CHOICES)}, got {name!r}"


@contextlib.contextmanager
def use_backend(name: str) -> Iterator[None]:
    """Runs the operators called inside the ``with`` block on one backend.

    Args:
        name: ``"auto"``, ``"native"``, ``"triton"`` or ``"cuda"``. A named backend that cannot run an operator raises
            RuntimeError with the reason when the operator is called; nothing falls back in silence.

    Holds for the current thread (a context variable) and also for the calls of functions compiled earlier; the block
    itself stays outside compiled regions. The default comes from the environment variable ``TOKENPRUNE_BACKEND``, read
    at import, and is ``"auto"``: native on CPU tensors, triton on CUDA tensors.
    """
    if name not in _CHOICES:
        raise ValueError(_unknown("use_backend", name))
    token = _chosen.set(name)
    try:
        yield
    finally:
        _chosen.reset(token)


def compiled_namespaces() -> list[str]:
    """The namespaces in which loaded backends have registered compiled operators."""
    return [backend.namespace for backend in _COMPILED if backend.namespace is not None]


def refuse(namespace: str, reason: str) -> None:
    """Declares the backend with the given namespace unavailable."""
    for backend in _COMPILED:
        if backend.namespace == namespace:
            backend.refuse(reason)


def operator(name: str, overload: str, device_type: str) -> Callable[..., Any]:
    """The form of an operator that runs on tensors of this device type; RuntimeError where there is none."""
    chosen = _chosen.get()
    backend_name = _AUTO[device_type] if chosen == "auto" else chosen
    backend = BACKENDS.get(backend_name)
    if backend is None:
        raise ValueError(_unknown("TOKENPRUNE_BACKEND", chosen))
    reason = backend.unavailable(device_type)
    if reason is not None:
        raise RuntimeError(f"{name}: backend '{backend_name}' cannot run on {device_type} tensors: {reason}")
    return backend.operator(name, overload)


def build_info() -> dict[str, Any]:
    """What is installed and what can run here.

    Returns:
        ``versions`` (package, torch, triton, python), ``default_backend``, and for each backend ``unavailable`` by
        device type (None, or the reason); for ``native`` also what the extension was built with: ``torch``,
        ``compiler``, the instruction set in use (``isa``), the one that each dtype takes (``isa_by_dtype``), and the
        ``supported_isas``.
    """
    backends: dict[str, dict[str, Any]] = {
        name: {"unavailable": {device_type: backend.unavailable(device_type) for device_type in _AUTO}}
        for name, backend in BACKENDS.items()
    }
    if native.extension is not None:
        backends["native"].update(native.extension.build_info())
    return {
        "versions": {
            "tokenprune_kernels": __version__,
            "torch": torch.__version__,
            "triton": _version("triton"),
            "python": platform.python_version(),
        },
        "default_backend": _chosen.get(),
        "backends": backends,
    }


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None
