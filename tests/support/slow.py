"""Marks for cases of a test by their parameters. The arguments of a condition are parameters of the test, by name."""

import pytest


def slow_if(condition):
    """Marks the cases slow that fulfil the condition: `make test` leaves them to `make test-all`."""
    return pytest.mark.slow_if.with_args(condition)


def slow_if_interpreted(condition):
    """As `slow_if`, in the Triton interpreter alone: a pick takes tens of milliseconds there."""
    return pytest.mark.slow_if_interpreted.with_args(condition)


def not_interpreted_if(condition):
    """Leaves out cases in the Triton interpreter that add nothing to others there."""
    return pytest.mark.not_interpreted_if.with_args(condition)


def always():
    """The condition that every case fulfils."""
    return True
