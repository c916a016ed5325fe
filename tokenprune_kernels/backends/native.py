"""The native backend: the compiled library on CPU tensors.

The library knows torch by its stable interface alone, and Python not at all. This module loads it, and hands it what it
needs of the interpreter.
"""

from __future__ import annotations

import ctypes
import functools
import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..registration import complete

_PACKAGE = Path(__file__).parent.parent
# _C.abi3.so, or what kernel-builder of Hugging Face calls it.
_PATH = next(_PACKAGE.glob("_*.abi3.so"), _PACKAGE / "_C.abi3.so")
_REBUILD = "run `pip install --no-build-isolation --no-deps -e .` in the source tree"


def _load() -> tuple[str, str]:
    """The namespace of the compiled operators, or an empty one and the reason."""
    if not _PATH.exists():
        return "", f"the extension is not built; {_REBUILD}"
    try:
        torch.ops.load_library(_PATH)
        library = ctypes.CDLL(str(_PATH))
        library.tokenprune_namespace.restype = ctypes.c_char_p
        namespace = library.tokenprune_namespace()
        if namespace is None:
            return "", (
                "another copy of the extension has registered its operators in this process; restart Python, or build "
                "this one with a NAMESPACE of its own"
            )
        getattr(torch.ops, namespace.decode())._build_info()
        _hand_over_python(library)
    except (AttributeError, OSError, RuntimeError, ValueError) as error:
        return "", str(error.__cause__ or error)  # torch says only which file it cannot load
    return namespace.decode(), ""


def _hand_over_python(library: ctypes.CDLL) -> None:
    """Has long selections run signal handlers, that of Ctrl-C above all."""
    python = ctypes.pythonapi
    functions = (
        python.PyThread_get_thread_ident,
        python.PyGILState_Ensure,
        python.PyGILState_Release,
        python.PyErr_CheckSignals,
        python.PyErr_Fetch,
        python.PyErr_NormalizeException,
        python.PyException_SetTraceback,
        python.Py_DecRef,
    )
    addresses = (ctypes.cast(function, ctypes.c_void_p) for function in functions)
    table = (ctypes.c_void_p * len(functions))(*addresses)
    library.tokenprune_check_signals(table, ctypes.c_ulong(threading.main_thread().ident or 0))


def _raised_by_a_handler(error: RuntimeError) -> BaseException | None:
    """What a signal handler raised, KeyboardInterrupt above all, if that is why the selection has failed."""
    take = ctypes.PyDLL(str(_PATH)).tokenprune_take_exception
    take.restype = ctypes.c_void_p
    address = take(str(error).encode(errors="replace"))
    if address is None:
        return None
    exception: BaseException = ctypes.cast(address, ctypes.py_object).value
    ctypes.pythonapi.Py_DecRef(ctypes.py_object(exception))  # the reference that the library had
    return exception


_namespace, _reason = _load()


def declare(name: str, overload: str, schema: str, fake: Callable[..., Any]) -> None:
    """Compares the compiled form of an overload with its declaration, and registers its fake.

    Makes the whole backend unavailable where they differ: the extension is then of another version of the package.
    """
    global _namespace, _reason
    if not _namespace:
        return
    try:
        compiled = str(_overload(name, overload)._schema)
    except AttributeError:
        compiled = ""
    if compiled == f"{_namespace}::{schema}":
        complete(compiled.partition("(")[0], fake)
    else:
        _namespace, _reason = "", f"the extension declares {schema.partition('(')[0]} otherwise; rebuild it"


def unavailable(device_type: str) -> str | None:
    """Why the backend cannot run on tensors of this device type; None when it can."""
    if not _namespace:
        return _reason
    return None if device_type == "cpu" else "it runs on CPU tensors only"


@functools.cache
def operator(name: str, overload: str) -> Callable[..., Any]:
    """The compiled form of an operator."""
    return functools.partial(_call, name, _overload(name, overload))


def _call(name: str, compiled: Callable[..., Any], *arguments: Any) -> Any:
    try:
        return compiled(*arguments)
    except RuntimeError as error:
        # Not in a variable of this frame, which its traceback holds: the cycle would keep the tensors alive.
        raise _reason_of(name, error) from None


def _reason_of(name: str, error: RuntimeError) -> BaseException:
    """What the caller of an operator is told: an error of the library as the class of exception that it stands for."""
    if (raised := _raised_by_a_handler(error)) is not None:
        return raised
    if str(error).startswith(f"{name}: expected "):  # contents, which only the library looks at
        return ValueError(str(error))
    return error


def instruction_set(x: Tensor) -> str:
    """What the bits of similarities depend on: the instruction set that x's dtype takes."""
    return str(build_info()["isa_by_dtype"][str(x.dtype).removeprefix("torch.")])


def reciprocal_norms(x: Tensor) -> Tensor:
    """The reciprocal norm of each row of x ``[N, D]``, float32 ``[N]``; 0 for a row that is not finite."""
    return operator("_reciprocal_norms", "default")(x)


def similarities(x: Tensor, norms_x: Tensor, y: Tensor, norms_y: Tensor) -> Tensor:
    """The similarities of the rows of x to those of y, given their reciprocal norms: float32 ``[N of x, N of y]``."""
    return operator("_similarities", "default")(x, norms_x, y, norms_y)


def outliers(x: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The finite rows of x whose nearest other rows are farthest, best first, and these distances, float32."""
    return operator("_outliers", "default")(x, count)


def _overload(name: str, overload: str) -> Any:
    return getattr(getattr(getattr(torch.ops, _namespace), name), overload)


def build_info() -> dict[str, Any]:
    """What the extension was built with, and its instruction sets; nothing when it is not available."""
    if not _namespace:
        return {}
    return {"file": str(_PATH), **json.loads(getattr(torch.ops, _namespace)._build_info())}
