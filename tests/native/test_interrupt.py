"""Signals in the middle of a long selection, Ctrl-C above all."""

from textwrap import indent

import pytest

from tests.support.subprocess import python

SELECT = """
import gc, os, signal, sys, threading, time, torch, tokenprune_kernels, traceback, weakref
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


UNRELATED = """
try:
    torch.ops.tokenprune.dpp(torch.ones(9, 4), torch.full((9,), -1.0), 2)
except ValueError as error:
    print(error)
"""
REFUSED = "dpp: expected relevance to be at least 0, got -1"


def test_an_interrupted_call_of_a_compiled_operator_leaves_nothing_behind():
    """Nobody takes what the handler raised then. An error of a later call is its own all the same."""
    code = """
threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT)).start()
try:
    torch.ops.tokenprune_native.divprune(rows, 8_000)
except RuntimeError as error:
    print("a signal handler has ended the selection" in str(error))
"""
    result = python(SELECT + code + UNRELATED + INTERRUPT.format(call="dense(60_000)") + UNRELATED)
    assert result.stdout.splitlines() == ["True", REFUSED, "2 picks after the interruption", REFUSED], result.stderr


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["RuntimeError", "SystemExit"])
def test_a_handler_may_select_and_ends_a_selection_with_an_exception_of_its_own(kind):
    code = f"""
class Late({kind}):
    pass
raised = []
def handler(*_):
    print(dense(900, 900).shape[-1], "picks of the handler")
{indent(UNRELATED, "    ")}
    raised.append(Late("divprune: expected an answer by now"))
    raise raised[0]
signal.signal(signal.SIGALRM, handler)
signal.setitimer(signal.ITIMER_REAL, 0.3)
try:
    dense(60_000)
except Late as late:
    print(late is raised[0], traceback.extract_tb(late.__traceback__)[-1].name)
"""
    result = python(SELECT + code)
    assert result.stdout.splitlines() == ["900 picks of the handler", REFUSED, "True handler"], result.stderr


@pytest.mark.slow
def test_an_interrupted_selection_lets_go_of_its_tokens():
    """As soon as the exception is handled: a cycle would keep them until the next collection of garbage."""
    code = f"""
gc.disable()
def interrupted():
    rows = torch.randn(60_000, 256)
{indent(INTERRUPT.format(call="torch.ops.tokenprune.divprune(rows, 8_000)"), "    ")}
    return weakref.ref(rows)
print(interrupted()() is None)
"""
    result = python(SELECT + code)
    assert result.stdout.splitlines() == ["2 picks after the interruption", "True"], result.stderr


@pytest.mark.slow
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


@pytest.mark.parametrize("call", [pytest.param("dense(60_000)", marks=pytest.mark.slow), "dense(60_000, 60_000)"])
def test_a_selection_in_a_daemon_thread_lets_the_process_end(call):
    code = f"threading.Thread(target=lambda: {call}, daemon=True).start(); time.sleep(0.5); print('end')"
    result = python(SELECT + code)
    assert (result.stdout.strip(), result.returncode) == ("end", 0), result.stderr
