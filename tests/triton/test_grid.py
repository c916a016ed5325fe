"""The kernels with a cooperative launch, run as several programs that are interleaved at random."""

import functools
import inspect
import itertools
import random
import threading

import numpy as np
import pytest
import torch

from tests.support.forms import assert_equal, given
from tests.support.inputs import METHODS, gaussian_tokens, ops, random_weight
from tests.support.slow import slow_if
from tests.support.varlen import prefix_sums, varlen_arguments

interpreter = pytest.importorskip("triton.runtime.interpreter", reason="the Triton backend needs triton")
tl = pytest.importorskip("triton.language", reason="the Triton backend needs triton")

from tokenprune_kernels.backends.triton import configs, kernels, runtime  # noqa: E402

pytestmark = [
    pytest.mark.interpret,
    pytest.mark.parametrize("backend", [pytest.param(("triton", "cpu"), id="triton")], indirect=True),
]

MAX_SWITCHES = 2_000
# How likely another program goes on after one of these.
SWITCH_PROBABILITY = {"create_atomic_rmw": 1.0, "create_masked_store": 0.2}


class Scheduler:
    """Lets one of several threads run at a time. A seed decides which."""

    def __init__(self, seed):
        self.random = random.Random(seed)
        self.changed = threading.Condition()
        self.running, self.current, self.switches, self.error = [], None, 0, None
        self.here = threading.local()

    def run(self, programs, run_program):
        self.running, self.current = list(range(programs)), None
        threads = [threading.Thread(target=self._run, args=(each, run_program)) for each in range(programs)]
        for thread in threads:
            thread.start()
        self.next()
        for thread in threads:
            thread.join()
        if self.error is not None:
            raise self.error

    def _run(self, number, run_program):
        self.here.number = number
        try:
            self.wait()
            run_program(number)
        except BaseException as error:
            self.error = self.error or error
        self.running.remove(number)
        self.next()

    def next(self):
        with self.changed:
            self.switches += 1
            self.current = self.random.choice(self.running) if self.running else None
            self.changed.notify_all()

    def wait(self):
        with self.changed:
            self.changed.wait_for(lambda: self.current == self.here.number)
        if self.error is not None or self.switches > MAX_SWITCHES:
            raise self.error or RuntimeError("programs wait for one another forever")

    def pause(self):
        """Called by the running program. It goes on when it is chosen again."""
        if getattr(self.here, "number", None) is not None:
            place = interpreter.interpreter_builder.grid_idx
            self.next()
            self.wait()
            interpreter.interpreter_builder.set_grid_idx(*place)


class Interleaved:
    """A kernel all of whose programs run once the last one is called."""

    def __init__(self, kernel, scheduler):
        functools.update_wrapper(self, kernel)
        self.__signature__, self.__globals__ = inspect.signature(kernel), kernel.__globals__
        self.kernel, self.scheduler, self.places = kernel, scheduler, []

    def __call__(self, **given):
        builder = interpreter.interpreter_builder
        self.places.append(builder.grid_idx)
        if len(self.places) == builder.grid_dim[0]:
            self.scheduler.run(len(self.places), lambda number: self.run(number, given))

    def run(self, number, given):
        interpreter.interpreter_builder.set_grid_idx(*self.places[number])
        self.kernel(**given)


@pytest.fixture
def inside_tensors(monkeypatch):
    """Checks that every address that a kernel loads from or stores to is in a tensor of its launch."""
    extents, run = [], runtime.launch

    def recorded(kernel, programs, tensors, *rest, **options):
        extents[:] = [(t.data_ptr(), t.data_ptr() + t.nbytes) for t in tensors.values() if t is not None]
        run(kernel, programs, tensors, *rest, **options)

    def checked(operation, mask_at):
        def on_addresses(self, *operands):
            pointers = operands[1] if operation.__name__ == "create_atomic_rmw" else operands[0]
            addresses = pointers.data[operands[mask_at].data.astype(bool)]
            inside = [(begin <= addresses) & (addresses < end) for begin, end in extents]
            assert np.logical_or.reduce(inside).all(), "an address outside the tensors of the launch"
            return operation(self, *operands)

        return on_addresses

    builder = type(interpreter.interpreter_builder)
    monkeypatch.setattr(runtime, "launch", recorded)
    for name, mask_at in {"create_masked_load": 1, "create_masked_store": 2, "create_atomic_rmw": 3}.items():
        monkeypatch.setattr(builder, name, checked(getattr(builder, name), mask_at))


@pytest.fixture
def interleaved(monkeypatch, inside_tensors):
    """Runs kernels with a cooperative launch as several programs. A seed decides how they are interleaved."""
    prepare, builder = interpreter.GridExecutor.__init__, type(interpreter.interpreter_builder)

    def set_programs(programs, seed):
        scheduler = Scheduler(seed)

        def prepare_interleaved(self, kernel, *rest):
            prepare(self, kernel, *rest)
            self.fn = Interleaved(self.fn, scheduler)

        def pausing(operation, probability):
            def with_pause(*operands):
                result = operation(*operands)
                if scheduler.random.random() < probability:
                    scheduler.pause()
                return result

            return with_pause

        monkeypatch.setattr(runtime, "multiprocessors", lambda _: programs)
        monkeypatch.setattr(runtime, "cooperative_grid", lambda *_: (programs, {}))
        monkeypatch.setattr(interpreter.GridExecutor, "__init__", prepare_interleaved)
        for name, probability in SWITCH_PROBABILITY.items():
            monkeypatch.setattr(builder, name, pausing(getattr(builder, name), probability))
        return scheduler

    return set_programs


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", ["gaussian", "duplicates", "some non-finite"])
@pytest.mark.parametrize(("programs", "splits"), [(2, 1), (4, 2)])
@slow_if(lambda method, kind: method == "idpruner" or kind != "some non-finite")
@slow_if(lambda programs: programs != 4)
def test_interleaved_programs_give_the_same_bits(backend, interleaved, monkeypatch, method, kind, programs, splits):
    x, weight = given(kind, 140)
    x = torch.cat([x, x.new_ones(140, 1_024)], dim=-1) if splits > 1 and method != "dpp" else x
    given_arguments = varlen_arguments(method, x, weight, prefix_sums(70, 0, 70), prefix_sums(6, 0, 4), 10, 100)
    with runtime.settings(form="lazy_greedy", max_candidates=4):
        expected = getattr(ops, f"{method}_varlen").scores(*given_arguments)
        monkeypatch.setattr(configs, "split_k", lambda *_: splits)
        scheduler = interleaved(programs, seed=programs)
        assert_equal(getattr(ops, f"{method}_varlen").scores(*given_arguments), expected)
    assert scheduler.switches > 50


@pytest.mark.parametrize("form", ["materialised", "lazy_greedy"])
def test_splits_of_tiles_are_summed_in_order(backend, interleaved, monkeypatch, form):
    # Without relevance a score is a similarity, to the last bit.
    given_arguments = gaussian_tokens(70, 2_056, dtype=torch.bfloat16), random_weight(70), 20, 0.0
    with runtime.settings(form=form):
        expected = ops.mmr.scores(*given_arguments)
        monkeypatch.setattr(configs, "split_k", lambda *_: 3)
        scheduler = interleaved(4, seed=1)
        assert_equal(ops.mmr.scores(*given_arguments), expected)
    assert scheduler.switches > 10


@pytest.mark.parametrize("split_blocks", [2, 1])
@slow_if(lambda split_blocks: split_blocks != 2)
def test_rows_are_updated_with_split_k(backend, interleaved, monkeypatch, split_blocks):
    # Relevance decides, so that a round updates with all 70 picks of the one before: two blocks of them.
    given_arguments = gaussian_tokens(150, 2_056, dtype=torch.bfloat16), torch.linspace(1, 0, 150), 145, 0.99
    with runtime.settings(form="materialised"):
        expected = ops.mmr.scores(*given_arguments)
    monkeypatch.setattr(configs, "split_k", lambda *_: 3)
    for module in (kernels, kernels.lazy_greedy):
        monkeypatch.setattr(module, "SPLIT_BLOCKS", tl.constexpr(split_blocks))
    interleaved(4, seed=1)
    with runtime.settings(form="lazy_greedy", max_candidates=70):
        assert_equal(ops.mmr.scores(*given_arguments), expected)


def test_the_search_for_the_first_pick_widens(backend, monkeypatch):
    x = gaussian_tokens(500, 16, seed=1)
    with runtime.settings(form="materialised"):
        first = ops.divprune.scores(x, 1)
    found, choose = [], kernels.first_pick.choose_candidates

    def recorded(*given):
        candidates, top = choose(*given)
        found.append((int(given[4].handle.data.item()), int(candidates.handle.data.item())))
        return candidates, top

    monkeypatch.setattr(kernels.first_pick, "choose_candidates", recorded)
    with runtime.settings(form="lazy_greedy"):
        assert_equal(ops.divprune.scores(x, 1), first)
    # The third time, fewer candidates are found than fit a block: another block of them is left empty.
    assert found == [(64, 55), (64, 62), (128, 20), (256, 0)]


def test_programs_that_do_not_wait_are_found_out(backend, interleaved, monkeypatch):
    x, weight = given("gaussian", 70)
    with runtime.settings(form="lazy_greedy", max_candidates=4):
        expected = ops.mmr(x, weight, 6)
        barriers = itertools.count()

        def go_on(*given):
            if next(barriers) == 400:  # without barriers, rounds may never end
                raise RuntimeError("programs go on forever")

        monkeypatch.setattr(kernels.lazy_greedy, "grid_barrier", go_on)
        interleaved(4, seed=1)
        try:
            result = ops.mmr(x, weight, 6)
        except interpreter.InterpreterError:
            return
        assert not torch.equal(result, expected)
