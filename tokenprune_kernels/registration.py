"""Operators are defined once in a process, and outlive the modules that define them.

torch defines no operator twice, and calling one that was taken away is a crash. So definitions stay for good. They call
functions that a second import of the package, after its modules were removed, puts in the place of the first one's.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

_RECORD = "_tokenprune_kernels"  # among the attributes of torch.ops.NAMESPACE, which stay as long as the process
_PACKAGE = __name__.rpartition(".")[0]


def record_of(namespace: str) -> dict[str, Any]:
    """What this process knows of a namespace. Empty at first."""
    return vars(getattr(torch.ops, namespace)).setdefault(_RECORD, {})


class Operators:
    """The operators of one namespace, defined in Python.

    Args:
        namespace: of ``torch.ops``, for this package alone.

    Raises:
        ImportError: if the namespace belongs to a copy of the package under another name, or to a stranger.
    """

    def __init__(self, namespace: str) -> None:
        self._namespace = namespace
        self._record = record_of(namespace)
        if not self._record:
            try:
                library = torch.library.Library(namespace, "DEF")
            except RuntimeError:
                raise ImportError(self._taken("another library")) from None
            self._record.update(library=library, package=_PACKAGE, location=str(Path(__file__).parent), defined={})
        elif self._record["package"] != _PACKAGE:
            raise ImportError(self._taken(f"{self._record['package']} in {self._record['location']}"))
        self._library: torch.library.Library = self._record["library"]

    def _taken(self, owner: str) -> str:
        return (
            f"{_PACKAGE}: expected torch.ops.{self._namespace} to be free, got one that belongs to {owner}; a second "
            "copy needs a NAMESPACE of its own in declaration.py, and an extension that is built with it"
        )

    def define(self, name: str, schema: str, implementation: Callable[..., Any], fake: Callable[..., Any]) -> None:
        """Defines an overload, or replaces what an earlier import has put behind it.

        Args:
            name: of the overload, without the namespace: ``mmr.scores`` say.
            schema: its arguments and results.
            implementation: on CPU and CUDA tensors.
            fake: on fake tensors.

        Raises:
            ImportError: if the earlier import was of another version of the package.
        """
        defined = self._record["defined"]
        behind = defined.setdefault(name, {"schema": schema})
        if behind["schema"] != schema:
            raise ImportError(
                f"{_PACKAGE}: expected {self._namespace}::{name} as this version declares it, got that of another "
                "version, imported earlier in this process; restart Python"
            )
        is_new = "implementation" not in behind
        behind.update(implementation=implementation, fake=fake)
        if not is_new:
            return
        library = self._library
        library.define(name + schema, tags=(torch.Tag.pt2_compliant_tag, torch.Tag.flexible_layout))
        for key in ("CPU", "CUDA"):
            library.impl(name, lambda *arguments: behind["implementation"](*arguments), key)
        library.impl(name, torch.library.fallthrough_kernel, "Autograd")  # selections have no gradient
        qualified = f"{self._namespace}::{name}"
        torch.library.register_fake(qualified, lambda *arguments: behind["fake"](*arguments), lib=library)


def complete(qualified: str, fake: Callable[..., Any]) -> None:
    """Gives an operator that a compiled library has defined its fake, and says that it has no gradient.

    The stable interface of torch says neither. A later import replaces the fake.
    """
    namespace, _, name = qualified.partition("::")
    record = record_of(namespace)
    fakes = record.setdefault("fakes", {})
    is_new = qualified not in fakes
    fakes[qualified] = fake
    if is_new:
        torch.library.register_fake(qualified, lambda *arguments: fakes[qualified](*arguments))
        if "autograd" not in record:
            record["autograd"] = torch.library.Library(namespace, "IMPL", "Autograd")
        record["autograd"].impl(name, torch.library.fallthrough_kernel)
