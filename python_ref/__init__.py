"""The oracle: DivPrune, MMR, IDPruner and the DPP as slow, obvious loops in float64.

Pure PyTorch, independent of tokenprune_kernels. ``tokenprune_kernels/verify/CONTRACT.md`` says in words what this
package says in code.
"""

from .divprune import divprune
from .dpp import dpp
from .idpruner import idpruner, relevance_of
from .mmr import mmr
from .varlen import divprune_varlen, dpp_varlen, idpruner_varlen, mmr_varlen

__all__ = [
    "divprune",
    "divprune_varlen",
    "dpp",
    "dpp_varlen",
    "idpruner",
    "idpruner_varlen",
    "mmr",
    "mmr_varlen",
    "relevance_of",
]
