"""Checks in processes of their own, and tests under watch: what one does to itself costs the others nothing."""

import faulthandler
import os
import re
import signal
import sys
import time
from types import SimpleNamespace

import pytest

pytest.importorskip("bench", reason="the benchmarks are only in the source tree")
pytest.importorskip("triton")
from triton import knobs

from bench.gpu import contact_stage, machine, process, recording, tests_stage
from bench.gpu.findings import Finding, Findings
from tests.gpu_stages.common import assert_has_ended


def hang():
    time.sleep(60)


def crash():
    faulthandler.disable()  # pytest's, which would print the stack
    os.kill(os.getpid(), signal.SIGSEGV)


def leave():
    os._exit(3)


def be_wrong():
    raise process.WrongResultError("pick 3: row 5")


def break_the_device():
    raise RuntimeError("CUDA error: an illegal memory access was encountered")


def refuse_to_end():
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    hang()


def hang_behind_a_kernel():
    """As a check does whose kernel never returns."""
    knobs.compilation.listener(src=SimpleNamespace(name="dpp_kernel"), metadata={})
    hang()


CHECKS = {
    "hang": (hang, "timed out", f"killed after 1 s, in hang (test_checks.py:{hang.__code__.co_firstlineno + 1})"),
    "crash": (crash, "crashed", "SIGSEGV"),
    "leave": (leave, "crashed", "exit code 3"),
    "wrong": (be_wrong, "wrong", "pick 3: row 5"),
    "broken": (break_the_device, "error", "RuntimeError: CUDA error: an illegal memory access was encountered"),
    "stubborn": (
        refuse_to_end,
        "timed out",
        f"killed after 1 s, in hang (test_checks.py:{hang.__code__.co_firstlineno + 1})",
    ),
    "right": (lambda: {"number": 1.5}, "passed", ""),
}


@pytest.mark.parametrize("side_by_side", [1, 4])
def test_each_check_ends_alone(tmp_path, side_by_side):
    findings = Findings(tmp_path)
    checks = {name: check for name, (check, _, _) in CHECKS.items()}
    start = time.monotonic()
    contact_stage.run_checks(findings, "contact", checks, start + 30, seconds=1.0, side_by_side=side_by_side)
    assert time.monotonic() - start < 20
    found = findings.of("contact")
    assert {name: (each.outcome, each.detail) for name, each in found.items()} == {
        name: expected for name, (_, *expected) in CHECKS.items() for expected in [tuple(expected)]
    }
    assert found["right"].facts == {"number": 1.5}


def test_the_kernel_behind_which_a_check_hangs_is_named(tmp_path, capfd):
    findings = Findings(tmp_path)
    checks = {"hang": hang_behind_a_kernel, "broken": break_the_device}
    contact_stage.run_checks(findings, "contact", checks, time.monotonic() + 30, seconds=1.0)
    assert findings.of("contact")["hang"].detail.startswith("killed after 1 s, last kernel dpp_kernel, in hang (")
    # The log has what a line has no room for.
    assert re.search(r"broken:\nTraceback .*in break_the_device", capfd.readouterr().err, re.S)


def test_facts_come_with_a_wrong_result(tmp_path):
    def be_wrong_about_something():
        raise process.WrongResultError("no", {"greedy_kernel": "64 registers"})

    findings = Findings(tmp_path)
    contact_stage.run_checks(findings, "contact", {"a": be_wrong_about_something}, time.monotonic() + 30)
    assert findings.of("contact")["a"].facts == {"greedy_kernel": "64 registers"}


def test_checks_beyond_the_deadline_are_not_started_and_left_for_later(tmp_path):
    findings = Findings(tmp_path)
    checks = {"first": hang, "second": dict}
    start = time.monotonic()
    contact_stage.run_checks(findings, "bits", checks, start + 0.5, side_by_side=1)
    assert time.monotonic() - start < contact_stage.EACH_SECONDS - 2
    assert {name: (each.outcome, each.detail[:9]) for name, each in findings.of("bits").items()} == {
        "first": ("not started", "cut short"),
        "second": ("not started", "no time w"),
    }
    contact_stage.run_checks(findings, "bits", checks, time.monotonic() + 9, seconds=0.5, side_by_side=1)
    assert {name: each.outcome for name, each in findings.of("bits").items()} == {
        "first": "timed out",
        "second": "passed",
    }


TESTS = {
    "test_first_captured_graph": "assert True",
    "test_fails": "assert [1, 2] == [1, 3]",
    "test_raises": "raise ValueError('no')",
    "test_hangs": "time.sleep(60)",
    "test_crashes": "os.abort()",
    "test_breaks_the_device": "raise RuntimeError('CUDA error: an illegal memory access was encountered')",
    "test_skips": "pytest.skip('no')",
    "test_after_all_of_them": "assert True",
}
OUTCOMES = {
    "test_first_captured_graph": "passed",
    "test_fails": "wrong",
    "test_raises": "error",
    "test_hangs": "timed out",
    "test_crashes": "crashed",
    "test_breaks_the_device": "error",
    "test_skips": "skipped",
    "test_after_all_of_them": "passed",
}


@pytest.fixture
def fake_tests(tmp_path, monkeypatch):
    """A folder with tests that do to their process what kernels may."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")  # they take most of a start
    folder = tmp_path / "fake"
    folder.mkdir()
    body = "".join(f"def {name}():\n    {code}\n" for name, code in TESTS.items())
    (folder / "test_fake.py").write_text(f"import os, time, pytest\n{body}")
    (folder / "pytest.ini").write_text("[pytest]\n")
    return folder


def run_fakes(findings, folder, deadline, **options):
    log = findings.path.parent / "log"
    options = {"seconds": 1.5, "root": folder} | options
    tests_stage.run_tests(findings, ["test_fake.py"], time.monotonic() + deadline, log, **options)
    return {name.partition("::")[2]: finding for name, finding in findings.of("tests").items()}


@pytest.mark.slow
def test_a_test_that_ends_its_process_ends_no_other_test(tmp_path, fake_tests):
    findings = Findings(tmp_path)
    found = run_fakes(findings, fake_tests, 60, workers=2)
    found.pop("")  # of the stage
    assert findings.of("tests")["selected"].facts == {"tests": len(TESTS)}
    assert {name: finding.outcome for name, finding in found.items()} == OUTCOMES
    assert found["test_fails"].detail.startswith("assert [1, 2] == [1, 3]; At index 1 diff: 2 != 3; ")
    assert found["test_raises"].detail == "ValueError: no"
    assert found["test_hangs"].detail == "killed after 2 s"
    assert found["test_hangs"].seconds < 15
    # The machine may give back few files.
    assert {path.name for path in tmp_path.iterdir()} == {"fake", "gpu-stages.jsonl", "log"}
    assert "in test_hangs" in (tmp_path / "log").read_text()


def test_nothing_runs_in_a_process_behind_a_broken_device(tmp_path, fake_tests):
    pid = tmp_path / "pid"
    (fake_tests / "test_fake.py").write_text(
        "import os, pathlib\n"
        f"pid = pathlib.Path({str(pid)!r})\n"
        "def test_breaks():\n"
        "    pid.write_text(str(os.getpid()))\n"
        "    raise RuntimeError('Triton Error [CUDA]: misaligned address')\n"
        "def test_next():\n"
        "    assert pid.read_text() != str(os.getpid())\n"
    )
    found = run_fakes(Findings(tmp_path), fake_tests, 60, workers=1, seconds=20.0)
    assert {name: each.outcome for name, each in found.items() if name} == {
        "test_breaks": "error",
        "test_next": "passed",
    }


def test_a_file_that_cannot_be_imported_costs_its_own_tests_alone(tmp_path, fake_tests):
    (fake_tests / "test_broken.py").write_text("import no_such_module\n")
    (fake_tests / "test_fake.py").write_text("def test_one():\n    pass\n")
    findings = Findings(tmp_path)
    tests_stage.run_tests(findings, ["."], time.monotonic() + 60, tmp_path / "log", workers=2, root=fake_tests)
    assert {name: (each.outcome, each.detail) for name, each in findings.of("tests").items()} == {
        "selected": ("measured", ""),
        "test_broken.py": ("error", "ModuleNotFoundError: No module named 'no_such_module'"),
        "test_fake.py::test_one": ("passed", ""),
    }


@pytest.mark.slow
def test_a_test_that_compiles_has_more_time(tmp_path, fake_tests):
    compile_two = "\n".join(
        ["    import sys, types", "    from triton import knobs"]
        + ["    time.sleep(1)", "    knobs.compilation.listener(src=types.SimpleNamespace(name='a_kernel'))"] * 3
    )
    (fake_tests / "test_fake.py").write_text(
        "import time, triton\n"
        f"def test_compiles():\n{compile_two}\n"
        f"def test_hangs():\n{compile_two}\n    time.sleep(60)\n"
    )
    found = run_fakes(Findings(tmp_path), fake_tests, 60, workers=1, seconds=2.0)
    assert found["test_compiles"].outcome == "passed"
    assert (found["test_hangs"].outcome, found["test_hangs"].detail) == (
        "timed out",
        "killed after 2 s, last kernel a_kernel",
    )


@pytest.mark.slow
def test_what_a_test_started_ends_with_it(tmp_path, fake_tests):
    """A process of a test, even in a session of its own, would go on using the device."""
    started = tmp_path / "pid"
    (fake_tests / "test_fake.py").write_text(
        "import subprocess, pathlib, time\n"
        "def test_hangs():\n"
        "    process = subprocess.Popen(['sleep', '60'], start_new_session=True)\n"
        f"    pathlib.Path({str(started)!r}).write_text(str(process.pid))\n"
        "    time.sleep(60)\n"
    )
    found = run_fakes(Findings(tmp_path), fake_tests, 60, workers=1)
    assert found["test_hangs"].outcome == "timed out"
    assert_has_ended(int(started.read_text()))


def test_the_extension_is_built_unless_it_is_there_and_new(tmp_path):
    for name in ("csrc/cpu/a.cpp", "tokenprune_kernels/declaration.py", "setup.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert not tests_stage.is_built(tmp_path)
    extension = tmp_path / "tokenprune_kernels" / "_C.abi3.so"
    extension.touch()
    assert tests_stage.is_built(tmp_path)
    later = extension.stat().st_mtime + 1
    os.utime(tmp_path / "csrc" / "cpu" / "a.cpp", (later, later))
    assert not tests_stage.is_built(tmp_path)


def test_tests_that_there_was_no_time_for_are_taken_later(tmp_path, fake_tests):
    findings = Findings(tmp_path)
    (fake_tests / "test_fake.py").write_text("def test_one():\n    pass\n")
    found = run_fakes(findings, fake_tests, 0.0, workers=1)
    assert {finding.outcome for finding in found.values()} == {"not started"}
    findings.add(Finding("tests", "test_fake.py::test_one", "not started"))
    assert run_fakes(findings, fake_tests, 60, workers=1)["test_one"].outcome == "passed"


def test_what_only_a_gpu_can_show_is_tested_first():
    nodes = [
        "tests/operators/test_dpp.py::test_of_operators[gpu]",
        "tests/triton/test_gpu.py::test_torch_compile_replays_graphs[mmr]",
        "tests/triton/test_gpu.py::test_rows_far_apart[mmr]",
        "tests/triton/test_gpu.py::test_a_captured_graph_serves_new_contents[mmr]",
        "tests/triton/test_gpu.py::test_similarities_are_one_function_of_two_rows[dtype0]",
    ]
    assert sorted(nodes, key=recording.rank) == [nodes[4], nodes[3], nodes[2], nodes[0], nodes[1]]


def test_a_missing_compiler_is_said_in_one_line(monkeypatch):
    assert machine.compiler() == "" or machine.compiler().startswith("expected ")
    monkeypatch.setattr(machine.shutil, "which", lambda name: None)
    monkeypatch.setattr(machine.sysconfig, "get_paths", lambda scheme: {"include": "/nowhere"})
    monkeypatch.delenv("CC", raising=False)
    assert machine.compiler() == "expected a C compiler (gcc or clang) and Python.h, got none"
    monkeypatch.setenv("CC", "no-such-compiler")  # Triton then looks for no other
    assert machine.compiler() == "expected a C compiler (no-such-compiler) and Python.h, got none"


def test_a_machine_without_a_device_is_a_finding(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", "")
    findings = Findings(tmp_path)
    contact_stage.look_around(findings)
    found = findings.of("contact")
    assert found["device"].outcome == "error"
    assert found["versions"].facts["python"] == ".".join(map(str, sys.version_info[:3]))
    assert machine.architecture() == 90


def test_the_latest_finding_counts(tmp_path):
    findings = Findings(tmp_path)
    findings.add(Finding("tests", "a", "not started"))
    findings.add(Finding("tests", "a", "passed"))
    assert findings.settled("tests") == {"a"}
