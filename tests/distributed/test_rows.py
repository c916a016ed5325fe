"""What each backend does for a selection over several processes: norms, similarities of any rows, outliers."""

import contextlib

import pytest
import torch

from python_ref.divprune import nearest_neighbour
from python_ref.similarity import finite_rows, similarity_matrix
from tests.support import inputs
from tests.support.inputs import DTYPES, clustered_tokens, exact_tokens, gaussian_tokens, ops, with_layout
from tokenprune_kernels.dispatch import BACKENDS

LAYOUTS = [layout for layout in inputs.LAYOUTS if layout != "expanded"]


@pytest.fixture
def of_backend(backend):
    """A function of the backend under test, on its device; results come back."""

    def call(name, *arguments):
        moved = (inputs.moved(argument, ops.device) for argument in arguments)
        made = getattr(BACKENDS[backend], name)(*moved)
        return made.cpu() if isinstance(made, torch.Tensor) else tuple(each.cpu() for each in made)

    return call


def with_rows_that_are_not_finite(x):
    x[::7] = torch.nan
    x[1], x[2] = torch.inf, 0.0
    return x


@pytest.mark.parametrize(("dtype", "depth"), list(zip(DTYPES, (24, 70, 33), strict=True)), ids=str)
def test_similarities_are_those_of_the_oracle(of_backend, dtype, depth):
    both = with_rows_that_are_not_finite(gaussian_tokens(150, depth).to(dtype))
    x, y = both[:67], both[67:]
    norms = of_backend("reciprocal_norms", both)
    finite = finite_rows(both)
    assert torch.equal(norms > 0, finite)
    found = of_backend("similarities", x, norms[:67], y, norms[67:])[finite[:67]][:, finite[67:]]
    assert found.dtype == torch.float32
    expected = similarity_matrix(both, finite)[:67, 67:][finite[:67]][:, finite[67:]]
    torch.testing.assert_close(found, expected.float(), rtol=0, atol=1e-5)
    transposed = of_backend("similarities", y, norms[67:], x, norms[:67])[finite[67:]][:, finite[:67]]
    assert torch.equal(found, transposed.mT)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_layout_of_the_rows_changes_no_bit(of_backend, layout):
    x, y = gaussian_tokens(20, 24), gaussian_tokens(30, 24, seed=1)
    norms = of_backend("reciprocal_norms", x), of_backend("reciprocal_norms", y)
    expected = of_backend("similarities", x, norms[0], y, norms[1])
    other = with_layout(x, layout)
    assert torch.equal(of_backend("reciprocal_norms", other), norms[0])
    assert torch.equal(of_backend("similarities", other, norms[0], y, norms[1]), expected)
    assert torch.equal(of_backend("similarities", y, norms[1], other, norms[0]), expected.mT)


def test_few_rows_and_many(of_backend):
    x, y = exact_tokens(2, 4, non_zeros=1), exact_tokens(16_500, 4, non_zeros=1, seed=1)
    norms = of_backend("reciprocal_norms", x), of_backend("reciprocal_norms", y)
    assert torch.equal(of_backend("similarities", x, norms[0], y, norms[1]), x @ y.mT)
    for some, of_some in ((y[:0], norms[1][:0]), (y[:1], norms[1][:1])):
        assert torch.equal(of_backend("similarities", x, norms[0], some, of_some), x @ some.mT)
    assert of_backend("reciprocal_norms", x[:0]).shape == (0,)


@pytest.mark.parametrize("limit", [None, 1, 3_000])
def test_outliers_come_best_first_and_ties_lowest_first(of_backend, backend, limit):
    for x in (exact_tokens(70, 16, non_zeros=4), clustered_tokens(70, 24, clusters=9)):
        with limited(backend, limit):
            rows, distances = of_backend("outliers", x, 12)
        finite = torch.ones(70, dtype=torch.bool)
        expected = 1.0 - nearest_neighbour(similarity_matrix(x, finite), finite)
        best = expected.sort(descending=True, stable=True)
        torch.testing.assert_close(distances, best.values[:12].float(), rtol=0, atol=1e-5)
        torch.testing.assert_close(distances, expected[rows].float(), rtol=0, atol=1e-5)
        keys = [*zip((-distances).tolist(), rows.tolist(), strict=True)]
        assert keys == sorted(keys)


@pytest.mark.parametrize("count", [1, 2])
def test_there_may_be_fewer_outliers_than_are_asked_for(of_backend, count):
    rows, distances = of_backend("outliers", torch.eye(3)[:count], 5)
    assert rows.tolist() == [0, 1][:count]
    assert distances.tolist() == ([torch.inf] if count == 1 else [1.0, 1.0])


@pytest.mark.parametrize("limit", [None, 1])
@pytest.mark.parametrize("order", ["rows", "columns"])
def test_outliers_are_finite_rows(of_backend, backend, limit, order):
    x = gaussian_tokens(40, 16)
    x[[0, 7, 39]] = torch.tensor([torch.nan, torch.inf, -torch.inf]).unsqueeze(1)
    rows_that_are = [row for row in range(40) if row not in (0, 7, 39)]
    with limited(backend, limit):
        rows, distances = of_backend("outliers", x if order == "rows" else x.mT.contiguous().mT, 50)
        among, same = of_backend("outliers", x[rows_that_are], 50)
    assert rows.tolist() == [rows_that_are[row] for row in among.tolist()]
    assert torch.equal(distances, same)


def limited(backend, limit):
    """A limit of the Triton backend's workspace, with which it compares so many rows at a time."""
    if backend != "triton" or limit is None:
        return contextlib.nullcontext()
    from tokenprune_kernels.backends.triton import runtime

    return runtime.settings(workspace_limit=limit)
