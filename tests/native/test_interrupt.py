"""Signals in the middle of a long selection, Ctrl-C above all."""

import pytest

from tests.support.subprocess import python

SELECT = """
import os, signal, sys, threading, time, torch, tokenprune_kernels
signal.signal(signal.SIGINT, signal.default_int_handler)  # a process in the background is started with it ignored
torch.set_num_threads(2)
rows = torch.randn(60_000, 256)
def dense(*items):
    return torch.ops.tokenprune.divprune(rows[: items[0]].expand(len(items), -1, -1), min(items[0], 8_000))
def ragged(*items):
    starts = torch.tensor([0, *items]).cumsum(0).int()
    kept = torch.tensor([0, *(min(count, 8_000) for count in items)]).cumsum(0).int()
    return torch.ops.tokenprune.divprune_varlen(rows, starts, kept, int(kept[-1]), max(items))
"""

INTERRUPT = """
threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT)).start()
try:
    {call}
except KeyboardInterrupt:
    print(torch.ops.tokenprune.divprune(rows[:9], 2).shape[-1], "picks after the interruption")
"""


# Each takes many seconds, whatever threads it is shared among.
@pytest.mark.parametrize(
    "call",
    [
        "dense(60_000)",
        pytest.param("dense(30_000, 30_000)", marks=pytest.mark.slow),
        pytest.param("dense(*[12_000] * 200)", marks=pytest.mark.slow),
        pytest.param("ragged(57_000, 3_000)", marks=pytest.mark.slow),
        pytest.param("ragged(3_000, 57_000)", marks=pytest.mark.slow),
        "ragged(30_000, 25_000)",
    ],
)
def test_a_long_selection_can_be_interrupted(call):
    result = python(SELECT + INTERRUPT.format(call=call))
    assert result.stdout.strip() == "2 picks after the interruption", result.stderr


def test_a_handler_may_change_the_number_of_threads():
    code = """
rows = rows[:30_000]
expected = torch.ops.tokenprune.divprune(rows, 500)
handled = []
signal.signal(signal.SIGALRM, lambda *_: (torch.set_num_threads(64), handled.append(0)))
signal.setitimer(signal.ITIMER_REAL, 0.02, 0.02)
found = torch.ops.tokenprune.divprune(rows, 500)
signal.setitimer(signal.ITIMER_REAL, 0)
# Signals that had waited for the end would have been handled as one.
print(torch.equal(found, expected), len(handled) > 2)
"""
    result = python(SELECT + code)
    assert result.stdout.split() == ["True", "True"], result.stderr


@pytest.mark.parametrize("call", [pytest.param("dense(30_000)", marks=pytest.mark.slow), "dense(30_000, 30_000)"])
def test_a_selection_in_a_daemon_thread_lets_the_process_end(call):
    code = f"threading.Thread(target=lambda: {call}, daemon=True).start(); time.sleep(0.5); print('end')"
    result = python(SELECT + code)
    assert (result.stdout.strip(), result.returncode) == ("end", 0), result.stderr
