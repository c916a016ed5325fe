"""Selection from rows that are spread over the processes of torch.distributed, exact to the last bit.

The result is that of one process that has all rows, those of rank 0 first, then those of rank 1, and so on.
"""

from .selection import Selection
from .selectors import divprune, idpruner, mmr

__all__ = ["Selection", "divprune", "idpruner", "mmr"]
