"""The kernels that wait for their grid, with several programs that take turns at random."""

import functools
import inspect
import random
import threading

import pytest
import torch

from tests.inputs import ALL_METHODS, arguments, gaussian_tokens, generator, ops, random_weight
from tests.test_varlen import prefix_sums, varlen_arguments

launch = pytest.importorskip("tokenprune_kernels.backends.triton.launch", reason="the Triton backend needs triton")
interpreter = pytest.importorskip("triton.runtime.interpreter", reason="the Triton backend needs triton")
tl = pytest.importorskip("triton.language", reason="the Triton backend needs triton")

pytestmark = [
    pytest.mark.interpret,
    pytest.mark.parametrize("backend", [pytest.param(("triton", "cpu"), id="triton")], indirect=True),
]

MOST_TURNS = 200_000
# How often another program has its turn after one of these.
SHARES = {"create_atomic_rmw": 1.0, "create_store": 0.2, "create_masked_store": 0.2}


class Turns:
    """Lets one of some threads run at a time, which one a seed decides."""

    def __init__(self, seed):
        self.random = random.Random(seed)
        self.changed = threading.Condition()
        self.running, self.turn, self.taken, self.error = [], None, 0, None
        self.here = threading.local()

    def run(self, programs, run_program):
        self.running, self.turn = list(range(programs)), None
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
            self.taken += 1
            self.turn = self.random.choice(self.running) if self.running else None
            self.changed.notify_all()

    def wait(self):
        with self.changed:
            self.changed.wait_for(lambda: self.turn == self.here.number)
        if self.error is not None or self.taken > MOST_TURNS:
            raise self.error or RuntimeError("programs wait for one another for ever")

    def pause(self):
        """Called by the program whose turn it is, which goes on when it is its turn again."""
        if getattr(self.here, "number", None) is not None:
            place = interpreter.interpreter_builder.grid_idx
            self.next()
            self.wait()
            interpreter.interpreter_builder.set_grid_idx(*place)


class SideBySide:
    """A kernel all of whose programs run once the last one is called."""

    def __init__(self, kernel, turns):
        functools.update_wrapper(self, kernel)
        self.__signature__, self.__globals__ = inspect.signature(kernel), kernel.__globals__
        self.kernel, self.turns, self.places = kernel, turns, []

    def __call__(self, **given):
        builder = interpreter.interpreter_builder
        self.places.append(builder.grid_idx)
        if len(self.places) == builder.grid_dim[0]:
            self.turns.run(len(self.places), lambda number: self.run(number, given))

    def run(self, number, given):
        interpreter.interpreter_builder.set_grid_idx(*self.places[number])
        self.kernel(**given)


@pytest.fixture
def side_by_side(monkeypatch):
    """Has kernels that wait for their grid run as so many programs, whose turns a seed decides."""
    prepare, builder = interpreter.GridExecutor.__init__, type(interpreter.interpreter_builder)

    def set_programs(programs, seed):
        turns = Turns(seed)

        def prepare_side_by_side(self, kernel, *rest):
            prepare(self, kernel, *rest)
            self.fn = SideBySide(self.fn, turns)

        def pausing(operation, share):
            def with_pause(*operands):
                result = operation(*operands)
                if turns.random.random() < share:
                    turns.pause()
                return result

            return with_pause

        monkeypatch.setattr(launch, "_multiprocessors", lambda _: programs)
        monkeypatch.setattr(launch, "_grid_that_waits", lambda *_: (programs, {}))
        monkeypatch.setattr(interpreter.GridExecutor, "__init__", prepare_side_by_side)
        for name, share in SHARES.items():
            monkeypatch.setattr(builder, name, pausing(getattr(builder, name), share))
        return turns

    return set_programs


def given(kind, count):
    x, weight = gaussian_tokens(count, 8), random_weight(count)
    if kind == "duplicates":
        x = x[torch.randint(count // 4, (count,), generator=generator(1))]
    if kind == "some non-finite":
        x[::3], weight[4] = torch.nan, torch.inf
    return x, weight


def assert_equal(result, expected):
    for mine, theirs in zip(result, expected, strict=True):
        assert torch.equal(mine, theirs)


@pytest.mark.parametrize("method", ALL_METHODS)
@pytest.mark.parametrize("kind", ["gaussian", "duplicates", "some non-finite"])
@pytest.mark.parametrize(("programs", "parts"), [(2, 1), (4, 2)])
def test_programs_take_turns(backend, side_by_side, monkeypatch, method, kind, programs, parts):
    x, weight = given(kind, 140)
    x = torch.cat([x, torch.ones(140, 1_024)], dim=-1) if parts > 1 and method != "dpp" else x
    given_arguments = varlen_arguments(method, x, weight, prefix_sums(70, 0, 70), prefix_sums(6, 0, 4), 10, 100)
    monkeypatch.setattr(launch, "CANDIDATE_ROOM", 4)
    with launch.forced("candidates"):
        expected = getattr(ops, f"{method}_varlen").scores(*given_arguments)
        monkeypatch.setattr(launch, "parts_of_depth", lambda *_: parts)
        turns = side_by_side(programs, seed=programs)
        assert_equal(getattr(ops, f"{method}_varlen").scores(*given_arguments), expected)
    assert turns.taken > 50


@pytest.mark.parametrize("method", ["divprune", "mmr"])
def test_parts_of_tiles_are_summed_by_the_last_program(backend, side_by_side, monkeypatch, method):
    x, weight = gaussian_tokens(2, 70, 1_032, dtype=torch.bfloat16), random_weight(2, 70)
    with launch.forced("materialised"):
        expected = getattr(ops, method).scores(*arguments(method, x, weight, 3))
        monkeypatch.setattr(launch, "parts_of_depth", lambda *_: 2)
        turns = side_by_side(4, seed=1)
        assert_equal(getattr(ops, method).scores(*arguments(method, x, weight, 3)), expected)
    assert turns.taken > 10


def test_more_picks_than_are_taken_in_a_part_of_the_depth_at_a_time(backend, side_by_side, monkeypatch):
    given_arguments = gaussian_tokens(150, 1_032, dtype=torch.bfloat16), torch.linspace(1, 0, 150), 145, 0.99
    with launch.forced("materialised"):
        expected = ops.mmr.scores(*given_arguments)
    monkeypatch.setattr(launch, "CANDIDATE_ROOM", 70)
    monkeypatch.setattr(launch, "parts_of_depth", lambda *_: 2)
    monkeypatch.setattr(launch.kernels.candidates, "SPLIT_BLOCKS", tl.constexpr(1))
    side_by_side(3, seed=1)
    with launch.forced("candidates"):
        assert_equal(ops.mmr.scores(*given_arguments), expected)


def test_the_search_for_the_first_pick_widens(backend, monkeypatch):
    x = gaussian_tokens(700, 16)
    with launch.forced("materialised"):
        expected = ops.divprune.scores(x, 1)
    rooms, choose = [], launch.kernels.outliers.choose

    def recorded(*given):
        rooms.append(int(given[4].handle.data.item()))
        return choose(*given)

    monkeypatch.setattr(launch.kernels.outliers, "choose", recorded)
    with launch.forced("candidates"):
        assert_equal(ops.divprune.scores(x, 1), expected)
    assert rooms == [64, 64, 128, 256]


def test_programs_that_do_not_wait_are_found_out(backend, side_by_side, monkeypatch):
    x, weight = given("gaussian", 140)
    monkeypatch.setattr(launch, "CANDIDATE_ROOM", 4)
    with launch.forced("candidates"):
        expected = ops.mmr(x, weight, 12)
        monkeypatch.setattr(launch.kernels.candidates, "grid_barrier", interpreter.InterpretedFunction(_go_on))
        side_by_side(4, seed=1)
        try:
            result = ops.mmr(x, weight, 12)
        except interpreter.InterpreterError:
            return
        assert not torch.equal(result, expected)


def _go_on(arrivals, target):
    pass
