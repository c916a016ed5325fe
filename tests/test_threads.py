"""That the native backend uses the threads it is given, and no others."""

from pathlib import Path

import pytest

from tests.inputs import gaussian_tokens, ops

TASKS = Path("/proc/self/task")

pytestmark = pytest.mark.skipif(not TASKS.exists(), reason="reads the processor time of threads in /proc")


def processor_time():
    """Nanoseconds on a processor by thread of this process."""
    return {task.name: int((task / "schedstat").read_text().split()[0]) for task in TASKS.iterdir()}


def shares(call):
    """The share of each thread in the processor time of a call, largest first."""
    before = processor_time()
    call()
    spent = [time - before.get(task, 0) for task, time in processor_time().items()]
    return sorted((time / sum(spent) for time in spent), reverse=True)


@pytest.mark.parametrize("batch", [1, 2, 3], ids=["rows of one item", "items", "items and rows"])
def test_two_threads_share_the_work(threads, batch):
    x = gaussian_tokens(batch, 1_500, 1_000)
    threads(2)
    ops.divprune(x, 1)
    assert shares(lambda: ops.divprune(x, 1))[1] > 0.2
    threads(1)
    ops.divprune(x, 1)  # meanwhile the other thread stops spinning
    assert shares(lambda: ops.divprune(x, 1))[0] > 0.95
