"""Inputs that a form of the algorithms could get wrong."""

import torch

from tests.support.inputs import clustered_tokens, exact_tokens, exact_weight, gaussian_tokens, generator, random_weight

METHODS_WITH_FORMS = ("divprune", "mmr", "idpruner")  # the DPP has one form


def given(kind, count):
    """Tokens and a weight for each, of a kind that one of the forms could mistake."""
    if kind == "exact":
        return exact_tokens(count, 16, non_zeros=4, dtype=torch.bfloat16), exact_weight("mmr", count)
    x, weight = gaussian_tokens(count, 16, dtype=torch.bfloat16), random_weight(count)
    if kind == "clustered":
        x = clustered_tokens(count, 16, 5, dtype=torch.bfloat16)
    if kind == "duplicates":
        x = x[torch.randint(count // 5, (count,), generator=generator(1))]
    if kind == "zeros":
        x = torch.zeros_like(x)
    if kind == "some non-finite":
        x[::3], weight[4] = torch.nan, torch.inf
    if kind == "all but one non-finite":
        x[torch.arange(count) != count // 2] = torch.inf
    if kind == "all non-finite":
        x[:] = -torch.inf
    return x, weight


def assert_equal(result, expected):
    """Indices and scores. What differs is counted, and where it does most is shown."""
    for mine, theirs in zip(result, expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=0)
