"""The forms in which the methods run: which kernels are launched, in which order, with which workspaces.

Where a method is:

| method   | forms                     | first pick (lazy greedy form)     | score                             |
|----------|---------------------------|-----------------------------------|-----------------------------------|
| divprune | materialised, lazy_greedy | first_pick.py `outlier_kernel`    | divprune.py `divprune_key`        |
| mmr      | materialised, lazy_greedy | first_pick.py `first_pick_kernel` | mmr.py `mmr_score`                |
| idpruner | materialised, lazy_greedy | first_pick.py `first_pick_kernel` | mmr.py, on relevance of idpruner.py |
| dpp      | dpp                       | dpp.py `dpp_kernel`               | dpp.py `dpp_kernel`               |

The files are in ``kernels``. The materialised form makes the first pick in greedy.py `greedy_kernel`.
"""

from .base import Batch, Form, Output, Tokens, padded
from .dpp import DppForm
from .lazy_greedy import LazyGreedyForm
from .materialised import MaterialisedForm

FORMS: dict[str, type[Form]] = {form.name: form for form in (MaterialisedForm, LazyGreedyForm, DppForm)}

__all__ = ["FORMS", "Batch", "DppForm", "Form", "LazyGreedyForm", "MaterialisedForm", "Output", "Tokens", "padded"]
