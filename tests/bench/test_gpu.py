"""The GPU benchmark's own parts, on the CPU."""

import json
import sys
import time

import pytest
import torch

from tests.support.inputs import ops

gpu = pytest.importorskip("bench.gpu", reason="the benchmarks are only in the source tree")

SMALL = gpu.Case.dense(1, 12, 16, 3, torch.bfloat16)


class HostTimer:
    """The processor's clock, and captures that run again."""

    def samples(self, run, count):
        samples = []
        for _ in range(count):
            start = time.perf_counter()
            run()
            samples.append(1e6 * (time.perf_counter() - start))
        return samples

    def capture(self, run):
        run()
        return run

    def synchronize(self):
        pass


@pytest.fixture(autouse=True)
def brief(monkeypatch):
    monkeypatch.setattr(gpu, "WARM_UP_SECONDS", 0.0)
    monkeypatch.setattr(gpu, "SAMPLING_SECONDS", 0.0)


def benchmark(seconds=1e9, clock=time.monotonic):
    reported = []
    made = gpu.Benchmark(HostTimer(), "cpu", 1_000, gpu.Budget(seconds, clock), reported.append)
    made.reported = reported
    return made


def row(implementation=gpu.OPERATOR, median=None, **fields):
    times = None if median is None else gpu.Times(median, median / 2, median - 1, median + 1, 5)
    return gpu.Row("8 x 4, k = 2", "bfloat16", "divprune", implementation, gpu.GRAPH, times=times, **fields)


def result(*rows, not_started=()):
    return {
        "device": dict.fromkeys(("name", "driver", "cuda", "torch", "triton"), "1.0"),
        "ceilings": {
            "bfloat16_product_teraflops": 790.0,
            "copy_gigabytes_per_second": 4_300.0,
            "clocks_megahertz": {"multiprocessors": "1980"},
        },
        "rows": [gpu.dataclasses.asdict(each) for each in rows],
        "not_started": list(not_started),
    }


def test_times_are_those_of_one_call():
    times = gpu.Times.of([50.0, 10.0, 20.0, 30.0, 40.0], 10)
    assert times == gpu.Times(median=3.0, least=1.0, p25=2.0, p75=4.0, samples=5)


@pytest.mark.parametrize(
    ("tensor", "cache", "copies"), [(10, 100, 21), (100, 100, 3), (150, 100, 2), (200, 100, 2), (10_000, 100, 2)]
)
def test_copies_exceed_the_cache_twice(tensor, cache, copies):
    assert gpu.copies_for(tensor, cache) == copies
    assert copies * tensor > 2 * cache


def test_warming_up_and_sampling_are_bounded(monkeypatch):
    class Counting(HostTimer):
        def samples(self, run, count):
            return [float(count)] * count

    runs = []
    assert gpu.timed(lambda: runs.append(1), 1, Counting()).samples == gpu.LEAST_SAMPLES
    assert len(runs) == 1
    monkeypatch.setattr(gpu, "WARM_UP_SECONDS", 0.02)
    monkeypatch.setattr(gpu, "SAMPLING_SECONDS", 1e9)
    assert gpu.timed(lambda: runs.append(1), 1, Counting()).samples == gpu.MOST_SAMPLES
    monkeypatch.setattr(gpu, "WARM_UP_SECONDS", 1e9)
    runs.clear()
    gpu.timed(lambda: runs.append(1), 1, Counting())
    assert len(runs) == 10_000


@pytest.mark.parametrize(
    "case",
    [
        SMALL,
        gpu.Case.dense(1, 20, 16, 4, torch.float32),
        gpu.Case.dense(3, 12, 16, 3, torch.float16),
        gpu.Case.ragged((20, 11, 35), 16, torch.bfloat16),
    ],
    ids=lambda case: case.tokens,
)
def test_a_case_has_a_right_row_for_every_implementation(case):
    made = benchmark()
    made.measure(case, ("divprune", "idpruner", "mmr"))
    gpu.compare(made.rows)
    rows = {(each.method, each.implementation, each.how): each for each in made.rows}
    assert len(rows) == len(made.rows) == len(made.reported) - 1
    assert not made.not_started
    for method in ("divprune", "idpruner", "mmr"):
        operator = rows[method, gpu.OPERATOR, gpu.GRAPH]
        assert operator.correct is True
        assert operator.times.median > 0
        assert operator.h200_bound > 0
        assert list(operator.stages) == list(gpu.MATERIALISED)
        assert sum(operator.stages.values()) == pytest.approx(operator.times.median)
    in_float32 = "running-minimum loop" + ("" if case.dtype == torch.float32 else " in float32")
    for how in (gpu.EAGER, gpu.GRAPH):
        assert rows["divprune", in_float32, how].correct is True
        assert rows["idpruner", "published IDPruner loop", how].correct is True
        assert rows["divprune", "published DivPrune loop", how].times.median > 0
    assert rows["", gpu.PRODUCT, gpu.GRAPH].times.median > 0
    assert rows["", gpu.PRODUCT, gpu.GRAPH].correct is None
    assert rows["divprune", gpu.OPERATOR, gpu.GRAPH].ratio > 0
    assert rows["mmr", gpu.OPERATOR, gpu.GRAPH].ratio is None
    assert not any(each.note for each in made.rows if each.correct)


@pytest.mark.parametrize(
    "case", [gpu.Case.dense(2, 12, 16, 3, torch.bfloat16), gpu.Case.ragged((40, 30), 16, torch.float32)]
)
def test_there_is_no_time_for_a_wrong_operator(monkeypatch, case):
    right = gpu.operator

    def turned(case, method, weight):
        return lambda x: right(case, method, weight)(x).flip(-1)

    monkeypatch.setattr(gpu, "operator", turned)
    made = benchmark()
    made.measure(case, ("divprune",))
    operator = made.rows[0]
    assert operator.implementation == gpu.OPERATOR
    assert operator.correct is False
    assert operator.times is None
    assert "item 0" in operator.note
    gpu.compare(made.rows)
    assert operator.ratio is None


def test_there_is_no_time_for_calls_that_pick_otherwise_than_the_checked_one(monkeypatch):
    right = gpu.operator
    calls = []

    def changing(case, method, weight):
        def call(x):
            calls.append(x)
            picks = right(case, method, weight)(x)
            return picks if len(calls) < 3 else picks.flip(-1)

        return call

    monkeypatch.setattr(gpu, "operator", changing)
    made = benchmark()
    made.measure(SMALL, ("divprune",))
    assert made.rows[0].times is None
    assert made.rows[0].correct is False
    assert made.rows[0].note == "the timed calls picked otherwise than the checked one"


def test_a_time_stays_where_its_stages_cannot_be_told_apart(monkeypatch):
    monkeypatch.setattr(gpu, "launches_up_to", lambda last, stages: 1 / 0)
    made = benchmark()
    made.measure(SMALL, ("divprune",))
    assert made.rows[0].times is not None
    assert made.rows[0].stages is None
    assert made.rows[0].note == "no stages: ZeroDivisionError: division by zero"
    assert " | - | " in gpu.summary(result(made.rows[0]))


def test_wrong_peers_are_timed_and_noted(monkeypatch):
    monkeypatch.setitem(
        gpu.PEERS["divprune"], "published DivPrune loop", lambda x, k: torch.zeros(k, dtype=torch.int64)
    )
    made = benchmark()
    made.measure(SMALL, ("divprune",))
    gpu.compare(made.rows)
    peer = next(each for each in made.rows if each.implementation.startswith("published"))
    assert peer.times is not None
    assert peer.correct is False
    assert peer.note == "item 0: 1 distinct picks instead of 3"
    assert not made.rows[0].fastest_correct_peer.startswith("published")


def test_what_cannot_run_is_noted_and_the_rest_goes_on(monkeypatch):
    def synchronising(x, k):
        raise RuntimeError("called a synchronizing CUDA operation\nat /home/someone/file.cpp:3")

    monkeypatch.setitem(gpu.PEERS["divprune"], "running-minimum loop", synchronising)
    made = benchmark()
    made.measure(SMALL, ("divprune",))
    failed = [each for each in made.rows if each.implementation == "running-minimum loop"]
    assert [each.note for each in failed] == ["RuntimeError: called a synchronizing CUDA operation"] * 2
    assert all(each.times is None and each.correct is None for each in failed)
    assert made.rows[-1].times is not None
    monkeypatch.setattr(gpu, "make_tokens", synchronising)
    made.measure(SMALL, ("divprune",))
    assert made.rows[-1].implementation == "inputs"


def test_only_the_first_picks_of_many_rows_are_replayed(monkeypatch):
    case = gpu.Case.dense(1, 60, 16, 40, torch.float32)
    x, weight = gpu.make_tokens(case, "cpu")
    picks = gpu.operator(case, "divprune", weight)(x)
    swapped = picks.clone()
    swapped[[38, 39]] = picks[[39, 38]]
    assert gpu.mistake(case, "divprune", x, weight, [picks]) == ""
    assert gpu.mistake(case, "divprune", x, weight, [swapped]).startswith("item 0: pick 38")
    monkeypatch.setattr(gpu.gate, "WHOLE_REPLAY_ROWS", 59)
    monkeypatch.setattr(gpu.gate, "REPLAYED_PICKS", 30)
    assert gpu.mistake(case, "divprune", x, weight, [swapped]) == ""
    assert "distinct" in gpu.mistake(case, "divprune", x, weight, [picks.clamp_max(5)])


def test_no_row_starts_once_the_budget_is_spent():
    now = iter(range(1_000))
    made = benchmark(seconds=8, clock=lambda: next(now))
    made.measure(SMALL, ("divprune", "idpruner", "mmr"))
    made.measure(SMALL, ("divprune",))
    assert 0 < len(made.rows) < 6
    assert len(made.not_started) > 5
    assert made.not_started[-1] == "12 x 16, k = 3, bfloat16"
    assert "Not started, for want of time: " in gpu.summary(result(*made.rows, not_started=made.not_started))


@pytest.mark.parametrize(
    "backend", [pytest.param(("triton", "cpu"), id="triton", marks=pytest.mark.interpret)], indirect=True
)
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("form", ["materialised", "lazy_greedy"])
@pytest.mark.parametrize("method", ["divprune", "idpruner"])
def test_a_stage_leaves_out_the_launches_after_it(backend, monkeypatch, packed, form, method):
    from tokenprune_kernels.backends.triton import runtime

    case = gpu.Case.ragged((20, 30), 16, torch.bfloat16) if packed else SMALL
    x, weight = gpu.make_tokens(case, ops.device)
    call = gpu.operator(case, method, weight)
    launched = []
    with runtime.settings(form=form):
        stages = gpu.stages_of(method, lambda: call(x))
        assert stages == (gpu.MATERIALISED if form == "materialised" else gpu.STAGES[method])
        monkeypatch.setattr(runtime, "launch", lambda kernel, *rest, **options: launched.append(kernel.__name__))
        expected = list(stages.values())
        for last in expected:
            launched.clear()
            with gpu.launches_up_to(last, stages):
                call(x)
            assert launched == ["plan_kernel"] * packed + expected[: expected.index(last) + 1]


@pytest.mark.parametrize(
    "backend", [pytest.param(("triton", "cpu"), id="triton", marks=pytest.mark.interpret)], indirect=True
)
@pytest.mark.parametrize("form", ["materialised", "lazy_greedy"])
def test_a_row_has_the_stages_of_the_form_that_ran(backend, form):
    from tokenprune_kernels.backends.triton import runtime

    made = benchmark()
    with runtime.settings(form=form):
        made.measure(SMALL, ("divprune",))
    assert made.rows[0].correct is True
    assert list(made.rows[0].stages) == list(made.rows[0].h200_stages)
    assert made.rows[0].teraflops > 0
    assert made.rows[0].gigabytes_per_second > 0


@pytest.mark.parametrize("method", ["divprune", "idpruner"])
def test_no_prediction_is_below_the_bound_of_its_form(method):
    for case in (*gpu.BFLOAT16_CASES, *gpu.OTHER_CASES):
        for candidate_blocks in (False, True):
            stages = gpu.predicted_stages(method, case, candidate_blocks)
            assert stages is None or sum(stages.values()) > gpu.bound(case, candidate_blocks)
            assert min(gpu.least_work(case, candidate_blocks)) > 0


def test_stages_are_predicted_where_they_are_modelled():
    batch, packed = gpu.Case.dense(64, 576, 4_096, 58, torch.bfloat16), gpu.Case.ragged((100, 200), 64, torch.bfloat16)
    expected = gpu.roofline.materialised_stages(576, 58, 4_096, items=64)
    assert gpu.predicted_stages("mmr", batch, candidate_blocks=False) == expected
    assert gpu.predicted_stages("mmr", batch, candidate_blocks=True) is None
    assert gpu.predicted_stages("mmr", packed, candidate_blocks=False) is None


def test_the_fastest_correct_peer_is_chosen():
    rows = [
        row(median=10.0, correct=True),
        row("slow", 50.0, correct=True),
        row("fast", 30.0, correct=True),
        row("wrong", 1.0, correct=False),
        row("failed", correct=True),
        row(gpu.PRODUCT, 2.0),
    ]
    gpu.compare(rows)
    assert rows[0].fastest_correct_peer == "fast, CUDA graph"
    assert rows[0].ratio == 3.0
    gpu.compare([rows[0], *rows[3:]])
    assert rows[1].ratio is None


@pytest.mark.parametrize("title", gpu.COMPILED_PEERS)
def test_a_peer_that_is_not_compiled_as_a_whole_says_so(monkeypatch, title):
    compile_loop = torch.compile
    monkeypatch.setattr(torch, "compile", lambda loop, dynamic: compile_loop(loop, dynamic=dynamic, backend="eager"))
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    made = benchmark()
    made.measure_compiled(SMALL, gpu.COMPILED_PEERS[title], title)
    assert [each.how for each in made.rows] == [gpu.COMPILED, gpu.COMPILED_GRAPH]
    for each in made.rows:
        assert each.times.median > 0
        assert each.note.startswith("not compiled as a whole: ") == (title != "published DivPrune loop")
    torch._dynamo.reset()


def test_compiled_rows_come_from_another_process():
    rows = [gpu.dataclasses.asdict(row("published DivPrune loop", 30.0, correct=True)), gpu.dataclasses.asdict(row())]
    made = benchmark()
    printing = f"print('noise'); print({json.dumps(rows)!r})"
    sleeping = "import time; time.sleep(60)"
    for code in (printing, sleeping, "raise SystemExit('stopped')", "print('no JSON')", ""):
        made.budget = gpu.Budget(2.0 if code == sleeping else 1e9)
        made.compiled_elsewhere(SMALL, "divprune", "published DivPrune loop", [sys.executable, "-c", code])
    assert [gpu.dataclasses.asdict(each) for each in made.rows[:2]] == rows
    notes = [each.note for each in made.rows[2:]]
    assert notes[0] == "not compiled within 2 s"
    assert notes[1] == "SubprocessError: exit code 1, stopped"
    assert notes[2].startswith("JSONDecodeError")
    assert notes[3].startswith("IndexError")


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("", "ValueError: "),
        ("no such file: /home/someone/x.py, line 3", "ValueError: no such file: PATH, line 3"),
        ("first\nsecond", "ValueError: first"),
        ("x" * 300, "ValueError: " + "x" * 188),
        ("a / b", "ValueError: a / b"),
    ],
)
def test_errors_are_noted_without_paths(message, expected):
    assert gpu.described(ValueError(message)) == expected


def test_the_result_is_named_after_the_device():
    assert gpu.file_name("NVIDIA H200") == "nvidia-h200.json"
    assert gpu.file_name("NVIDIA GeForce RTX 4090 (x2)") == "nvidia-geforce-rtx-4090-x2.json"


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, "-"),
        (0.0, "0"),
        (1_234.5, "1,234"),
        (123.4, "123"),
        (12.34, "12.3"),
        (1.234, "1.23"),
        (-0.0123, "-0.0123"),
    ],
)
def test_numbers_have_three_digits(value, expected):
    assert gpu.number(value) == expected


def test_tables_have_a_line_for_each_operator_and_each_row():
    rows = [
        row(
            median=12.5,
            correct=True,
            h200_bound=5.0,
            stages={"row norms": 1.0, "similarity pass": 5.5, "greedy loop": 6.0},
        ),
        row("published DivPrune loop", 700.0, correct=False, note="item 0, pick 3: row 5 | row 9"),
        row(gpu.PRODUCT, 4.0),
        row("running-minimum loop in float32", 2_500.0, correct=True),
    ]
    rows[1].how, rows[2].method, rows[3].how = gpu.EAGER, "", gpu.EAGER
    gpu.compare(rows)
    written = json.loads(json.dumps(result(*rows)))
    table = gpu.summary(written).splitlines()
    assert table[2] == (
        "| 8 x 4, k = 2 | bfloat16 | `divprune` | 12.5 (11.5 to 13.5) "
        "| row norms 1.00 + similarity pass 5.50 + greedy loop 6.00 | - | 5.00 | 40 % | - | - | 4.00 "
        "| 700 (wrong) | 2,500 (running-minimum loop in float32, eager) | 200 |"
    )
    assert table[3] == ""
    assert "1980 MHz" in table[4]
    every = gpu.details(written).splitlines()
    assert len(every) == 2 + len(rows)
    assert {line.count("|") for line in every} == {12}
    unmeasured = result(row(correct=False, note="item 0, pick 1: wrong"))
    assert "none: item 0, pick 1: wrong" in gpu.summary(unmeasured)


def test_the_table_replaces_the_one_in_the_readme(tmp_path, capsys):
    readme = tmp_path / "README.md"
    readme.write_text(f"before\n{gpu.BEGIN}\nold\n{gpu.END}\nafter\n")
    for table in ("| first |", "| second |"):
        assert gpu.put_between(gpu.BEGIN, gpu.END, table, readme)
        assert readme.read_text() == f"before\n{gpu.BEGIN}\n{table}\n{gpu.END}\nafter\n"
    assert capsys.readouterr().err == ""
    for text in ("", f"{gpu.BEGIN}\n", f"{gpu.END}\n{gpu.BEGIN}\n"):
        readme.write_text(text)
        assert not gpu.put_between(gpu.BEGIN, gpu.END, "| table |", readme)
        assert readme.read_text() == text
        assert "README.md is unchanged: expected the markers" in capsys.readouterr().err
    assert not gpu.put_between(gpu.BEGIN, gpu.END, "| table |", tmp_path / "missing.md")
    assert not (tmp_path / "missing.md").exists()


def test_a_result_is_rendered_without_a_device(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(gpu, "ROOT", tmp_path)
    (tmp_path / "README.md").write_text(f"{gpu.BEGIN}{gpu.END}")
    file = tmp_path / "result.json"
    for rows, expected in (([row(median=12.5, correct=True)], 0), ([row(correct=False)], 1)):
        file.write_text(json.dumps(result(*rows)))
        assert gpu.main(["--render", str(file)]) == expected
        printed = capsys.readouterr().out
        assert gpu.summary(result(*rows)) in printed
        assert gpu.summary(result(*rows)) in (tmp_path / "README.md").read_text()


def test_without_a_device_nothing_is_measured(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert gpu.main([]) == 2
    assert capsys.readouterr().err == "bench.gpu: needs a CUDA device\n"
