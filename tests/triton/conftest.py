import contextlib

import pytest


@pytest.fixture
def force():
    """Changes settings of the backend until the next call or the end of the test, by `Settings`' names."""
    from tokenprune_kernels.backends.triton import runtime

    with contextlib.ExitStack() as stack:

        def change(**changes):
            stack.close()
            stack.enter_context(runtime.settings(**changes))

        yield change
