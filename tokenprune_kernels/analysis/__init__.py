"""The trade-off of importance and diversity, measured on a user's own pictures or features.

What IDPruner's analysis shows (Tan et al., arXiv 2602.13315, section 3), in one command: ``python -m tokenprune_kernels
analyse``. Needs the ``[analyse]`` extra.
"""

from .frontier import Comparison, compare
from .report import append_measurements, start_measurements, table, write_figures, write_report
from .samples import Sample, from_features, from_picture, load_vision_tower
from .selections import Measurement, measure, steps

__all__ = [
    "Comparison",
    "Measurement",
    "Sample",
    "append_measurements",
    "compare",
    "from_features",
    "from_picture",
    "load_vision_tower",
    "measure",
    "start_measurements",
    "steps",
    "table",
    "write_figures",
    "write_report",
]
