"""The judge of selections: is every pick, within tolerance, the best one at its step?

Similarities of two correct implementations differ in their last bits. Near-ties may then resolve differently, and the
indices of two correct results may differ. The judge therefore replays a result in float64 from the same raw inputs: at
each step, it scores every row that is not yet picked and compares the pick with the best of them.

``CONTRACT.md`` beside this file says in words what is correct. This package needs torch and nothing else, so that it
can judge any implementation.
"""

from .judge import verify_trace, verify_trace_varlen
from .verdict import Verdict

__all__ = ["Verdict", "verify_trace", "verify_trace_varlen"]
