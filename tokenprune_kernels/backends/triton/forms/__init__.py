"""The forms in which the methods run: which kernels are launched, in which order, with which workspaces.

README.md, one folder up, has a table of methods, their forms and their kernels.
"""

from .base import Batch, Form, Output, Tokens, padded
from .dpp import DppForm
from .lazy_greedy import LazyGreedyForm
from .materialised import MaterialisedForm

FORMS: dict[str, type[Form]] = {form.name: form for form in (MaterialisedForm, LazyGreedyForm, DppForm)}

__all__ = ["FORMS", "Batch", "DppForm", "Form", "LazyGreedyForm", "MaterialisedForm", "Output", "Tokens", "padded"]
