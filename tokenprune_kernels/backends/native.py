"""The native backend: the compiled extension on CPU tensors."""

from __future__ import annotations

import functools
import importlib
import importlib.machinery
import re
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from .. import torch_release

_REBUILD = "run `pip install --no-build-isolation --no-deps -e .` in the source tree"
_BUILT_FOR = re.compile(rb"tokenprune_kernels built for torch ([0-9]+[.][0-9]+[.][0-9]+)")


def _load() -> tuple[ModuleType | None, str]:
    """The extension module, or None and the reason it is not loaded."""
    package = Path(__file__).parent.parent
    candidates = (package / f"_C{suffix}" for suffix in importlib.machinery.EXTENSION_SUFFIXES)
    path = next((candidate for candidate in candidates if candidate.exists()), None)
    if path is None:
        return None, f"the extension is not built for this Python; {_REBUILD}"
    try:
        built_for = _BUILT_FOR.search(path.read_bytes())
        # Another release may have another binary interface: loading it could crash instead of failing.
        if built_for is None or not torch_release.is_of(torch.__version__, built_for[1].decode()):
            release = built_for[1].decode() if built_for else "an unknown version"
            return None, (
                f"the extension was built for torch {release}, but torch {torch.__version__} is running; {_REBUILD}"
            )
        extension = importlib.import_module(f"{__package__.rpartition('.')[0]}._C")
        extension.build_info()
    except (ImportError, OSError, RuntimeError, ValueError) as error:
        return None, str(error)
    return extension, ""


_extension, _reason = _load()


def declare(name: str, overload: str, schema: str, fake: Callable[..., Any]) -> None:
    """Compares the compiled form of an overload with its declaration, and registers its fake.

    Makes the whole backend unavailable where they differ: the extension is then of another version of the package.
    """
    global _extension, _reason
    if _extension is None:
        return
    try:
        compiled = str(operator(name, overload)._schema)
    except AttributeError:
        compiled = ""
    if compiled == f"{_extension.namespace}::{schema}":
        torch.library.register_fake(compiled.partition("(")[0], fake)
    else:
        _extension, _reason = None, f"the extension declares {schema.partition('(')[0]} otherwise; rebuild it"


def unavailable(device_type: str) -> str | None:
    """Why the backend cannot run on tensors of this device type; None when it can."""
    if _extension is None:
        return _reason
    return None if device_type == "cpu" else "it runs on CPU tensors only"


@functools.cache
def operator(name: str, overload: str) -> Any:
    """The compiled form of an operator."""
    assert _extension is not None
    return getattr(getattr(getattr(torch.ops, _extension.namespace), name), overload)


def build_info() -> dict[str, Any]:
    """What the extension was built with, and its instruction sets; nothing when it is not available."""
    return {} if _extension is None else {"file": str(_extension.__file__), **_extension.build_info()}
