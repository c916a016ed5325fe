"""The oracle: DivPrune, MMR and IDPruner as slow, obvious loops in float64, and the check of other implementations.

Pure PyTorch, independent of tokenprune_kernels. CONTRACT.md says in words what this package says in code.
"""

from .divprune import divprune
from .idpruner import idpruner, relevance_of
from .mmr import mmr
from .varlen import divprune_varlen, idpruner_varlen, mmr_varlen
from .verify import Trace, verify_trace, verify_trace_varlen

__all__ = [
    "Trace",
    "divprune",
    "divprune_varlen",
    "idpruner",
    "idpruner_varlen",
    "mmr",
    "mmr_varlen",
    "relevance_of",
    "verify_trace",
    "verify_trace_varlen",
]
