"""Parameters of a model outside its forward pass."""

from __future__ import annotations

import contextlib
import threading
import weakref
from collections.abc import Iterator
from typing import Any

from torch.nn import Module

_locks: weakref.WeakKeyDictionary[Any, threading.RLock] = weakref.WeakKeyDictionary()
_making = threading.Lock()


@contextlib.contextmanager
def one_thread_where_offloaded(model: Any) -> Iterator[None]:
    """Has one thread at a time run a model that accelerate offloads.

    Its hooks put the parameters of a module in place before a call and take them away after it, whichever other thread
    is still using them.
    """
    if not any(hasattr(module, "_hf_hook") for module in model.modules()):
        yield
        return
    with _making:
        lock = _locks.setdefault(model, threading.RLock())
    with lock:
        yield


@contextlib.contextmanager
def loaded_parameters(model: Any) -> Iterator[None]:
    """Has the parameters of a model and of its inner model at hand inside the ``with`` block.

    A forward pass of these modules would fetch the parameters that accelerate has offloaded, and gather those that
    FSDP2 has sharded. Calls of their methods do not. The modules below them are called, and fetch their own.
    """
    with contextlib.ExitStack() as stack:
        stack.enter_context(one_thread_where_offloaded(model))
        for module in (model, model.model):
            hook = getattr(module, "_hf_hook", None)
            if hook is not None:
                hook.pre_forward(module)
                stack.callback(hook.post_forward, module, None)
            if hasattr(module, "unshard") and _is_sharded(module):
                module.unshard()
                stack.callback(module.reshard)
        yield


def _is_sharded(module: Module) -> bool:
    """Whether parameters that FSDP2 shards together with the module's own are sharded at present."""
    below = [child for child in module.children() if not hasattr(child, "unshard")]
    own = module.parameters(recurse=False)
    return any(hasattr(parameter, "device_mesh") for parameter in own) or any(map(_is_sharded, below))
