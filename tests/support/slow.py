"""Marks for the cases of a test that `make test` leaves to `make test-all`."""

import pytest


def slow_if(condition):
    """Marks the cases slow whose parameters fulfil the condition. Its arguments are parameters, by their names."""
    return pytest.mark.slow_if(condition)


def slow_if_interpreted(condition):
    """As `slow_if`, for the Triton interpreter alone: a pick takes milliseconds there."""
    return pytest.mark.slow_if(condition, interpreted=True)


def always():
    """The condition that every case fulfils."""
    return True
