"""Two processes agree with one on the inputs of the operators' tests, which run again here."""

import inspect

import pytest
import torch

from tests.distributed.one_process import SELECTORS, check
from tests.distributed.ranks import Ranks
from tests.operators import test_edge_rows, test_properties, test_selection
from tests.support import inputs

for _module in (test_edge_rows, test_properties, test_selection):
    for _name, _test in vars(_module).items():
        if _name.startswith("test_") and "backend" in inspect.signature(_test).parameters:
            globals()[_name] = _test

_ITEMS = 2  # of a batch


@pytest.fixture(scope="module")
def ranks():
    made = Ranks(2)
    yield made
    made.end()


@pytest.fixture
def backend(ranks, monkeypatch):
    """The native one, beside two ranks."""

    def beside_two_ranks(_, operator):
        name = str(operator).removeprefix("tokenprune.").partition(".")[0]

        def call(*arguments):
            result = operator(*arguments)
            if name in SELECTORS:
                compare(ranks, name, *arguments)
            return result

        return call

    monkeypatch.setattr(inputs._Operators, "_on_device", beside_two_ranks)
    return "native"


def compare(ranks, method, x, *others):
    """Compares two ranks, of which the first has a third of the rows, with one process."""
    if method == "divprune":
        weight, (k,), lam = torch.ones(x.shape[:-1]), others, 0.5
    else:
        weight, k, lam = (*others, 0.5)[:3]
    rows = x.detach().flatten(end_dim=-3) if x.dim() > 2 else x.detach().unsqueeze(0)
    weights = weight.detach().expand(x.shape[:-1]).reshape(rows.shape[:-1])
    for item in range(min(_ITEMS, len(rows))):
        check(ranks, method, rows[item], weights[item], k, lam, [rows.shape[1] // 3])
