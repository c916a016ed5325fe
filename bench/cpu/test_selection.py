"""The operators and their peers on every case, the operator first; grouped by case."""

from __future__ import annotations

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from bench.result_file import described

from .bound import bound
from .cases import Case, cases, quick_cases, task
from .implementations import OPERATOR, Implementation, for_case
from .measure import Select, measure, measure_again
from .rates import rates
from .record import Record
from .rows import Row


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "case" in metafunc.fixturenames:
        chosen = quick_cases() if metafunc.config.getoption("quick") else cases()
        pairs = [(case, implementation) for case in chosen for implementation in for_case(case)]
        metafunc.parametrize(("case", "implementation"), pairs, ids=[f"{case}: {each.name}" for case, each in pairs])


def test_selection(benchmark: BenchmarkFixture, record: Record, case: Case, implementation: Implementation) -> None:
    ours = implementation is OPERATOR
    record.reached.add(case)
    if not record.start(f"{implementation.name} on {case}"):
        pytest.skip("no time is left")
    row = Row.on(case, implementation.name)
    record.rows.append(row)
    row.note = implementation.left_out(case)
    if row.note:
        pytest.skip(f"{implementation.name} {row.note}")

    def timer(select: Select, rounds: int) -> list[float]:
        benchmark.group = str(case)
        benchmark.pedantic(select, rounds=rounds)
        return benchmark.stats.stats.data if benchmark.stats else []  # there are none with --benchmark-disable

    given, operator = task(case), record.operators.get(case)
    try:
        measured = measure(row, given, implementation.prepare(given), operator and operator.picks, timer)
    except Exception as error:
        row.correct, row.times, row.note = None, None, described(error)
        if ours:
            raise
        pytest.skip(f"{implementation.name}: {row.note}")
    if not ours:
        if operator and operator.seconds:
            measure_again(operator, OPERATOR.prepare(given))
            fail_if_wrong(operator.row)
        return
    fail_if_wrong(row)
    record.operators[case] = measured
    sizes = (case.tokens.count, case.tokens.k, given.x.shape[-1], given.x.itemsize)
    row.bound = 1e3 * bound(case.method, *sizes, rates(given.x), case.tokens.items or 1)


def fail_if_wrong(row: Row) -> None:
    if not row.correct:
        pytest.fail(f"no time for a wrong selection: {row.note}")
