"""Exact, deterministic selection of visual tokens: DivPrune, MMR, IDPruner and the DPP as torch operators.

Importing this package registers ``torch.ops.tokenprune``. The functions below are the same selections with the budget
as a count or a ratio. The modules ``baselines``, ``distributed``, ``importance``, ``metrics`` and ``verify`` are loaded
at their first use.
"""

import importlib
from types import ModuleType
from typing import TYPE_CHECKING

import torch

from . import torch_release

torch_release.check_supported(torch.__version__)

from . import sharding
from .backends.triton import warmup
from .dispatch import build_info, use_backend
from .kept_tokens import prune
from .selectors import divprune, divprune_varlen, dpp, dpp_varlen, idpruner, idpruner_varlen, mmr, mmr_varlen
from .version import __version__

sharding.register_if_loaded()

if TYPE_CHECKING:
    from . import baselines, distributed, importance, metrics, verify

_LAZY_MODULES = ("baselines", "distributed", "importance", "metrics", "verify")

__all__ = [
    "__version__",
    "baselines",
    "build_info",
    "distributed",
    "divprune",
    "divprune_varlen",
    "dpp",
    "dpp_varlen",
    "idpruner",
    "idpruner_varlen",
    "importance",
    "metrics",
    "mmr",
    "mmr_varlen",
    "prune",
    "use_backend",
    "verify",
    "warmup",
]


def __getattr__(name: str) -> ModuleType:
    if name in _LAZY_MODULES:
        return importlib.import_module(f".{name}", __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY_MODULES})
