"""Exact, deterministic selection of visual tokens: DivPrune, MMR, IDPruner and the DPP as torch operators.

Importing this package registers ``torch.ops.tokenprune``; the functions below are the same selections with the budget
as a count or a ratio.
"""

from .backends.triton import warmup
from .dispatch import build_info, use_backend
from .selectors import divprune, divprune_varlen, dpp, dpp_varlen, idpruner, idpruner_varlen, mmr, mmr_varlen, prune
from .version import __version__

__all__ = [
    "__version__",
    "build_info",
    "divprune",
    "divprune_varlen",
    "dpp",
    "dpp_varlen",
    "idpruner",
    "idpruner_varlen",
    "mmr",
    "mmr_varlen",
    "prune",
    "use_backend",
    "warmup",
]
