"""That the native backend uses the threads it is given, and no others."""

import time
from pathlib import Path

import pytest

from tests.support.inputs import gaussian_tokens, ops
from tests.support.varlen import prefix_sums

TASKS = Path("/proc/self/task")

pytestmark = [
    pytest.mark.alone,
    pytest.mark.skipif(not TASKS.exists(), reason="reads the processor time of threads in /proc"),
]


def processor_time():
    """Nanoseconds on a processor by thread of this process."""
    return {task.name: int((task / "schedstat").read_text().split()[0]) for task in TASKS.iterdir()}


def share_of_helpers(call):
    """The share of all threads but the busiest in the processor time of a call."""
    before = processor_time()
    call()
    spent = [time - before.get(task, 0) for task, time in processor_time().items()]
    return 1 - max(spent) / sum(spent)


@pytest.mark.parametrize("of_torch", [1, 2])
@pytest.mark.parametrize("batch", [1, 2, 3], ids=["rows of one item", "items", "items and rows"])
def test_two_threads_share_the_work(force_threads, threads, batch, of_torch):
    x = gaussian_tokens(batch, 1_500, 1_000)
    threads(of_torch)  # with two, a call borrows the other one
    force_threads(2)
    ops.divprune(x, 1)
    assert share_of_helpers(lambda: ops.divprune(x, 1)) > 0.2
    force_threads(1)
    time.sleep(0.3)  # a thread of torch looks for work for some time
    assert share_of_helpers(lambda: ops.divprune(x, 1)) < 0.05


def test_the_number_of_threads_is_that_of_torch(threads):
    x = gaussian_tokens(1_500, 1_000)
    threads(1)
    ops.divprune(x, 1)
    assert share_of_helpers(lambda: ops.divprune(x, 1)) < 0.05


@pytest.mark.parametrize("lengths", [(3_000, 64), (64, 3_000), (1_500, 1_500, 1_500), (2_000, *[200] * 20)], ids=str)
def test_two_threads_share_a_ragged_batch(force_threads, lengths):
    x = gaussian_tokens(sum(lengths), 512)
    sums = prefix_sums(*lengths), prefix_sums(*(length // 10 for length in lengths))
    force_threads(2)
    ops.divprune_varlen(x, *sums, sum(lengths), max(lengths))
    assert share_of_helpers(lambda: ops.divprune_varlen(x, *sums, sum(lengths), max(lengths))) > 0.2
