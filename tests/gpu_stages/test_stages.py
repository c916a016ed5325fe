"""The stages of `make gpu`: whatever becomes of one, the findings of the others are there. Nothing runs on a GPU."""

import sys
import time

import pytest

pytest.importorskip("bench", reason="the benchmarks are only in the source tree")

from bench.gpu import run, stages, summary
from bench.gpu.findings import FILE, Finding, Findings
from bench.gpu.process import run_command
from bench.gpu.stages import STAGES, limits, named
from tests.gpu_stages.common import assert_has_ended

# What the fake stages do, in a process without torch: a crash, a hang, an error, and one that finds something first.
FIND = """
import sys, pathlib; sys.path.insert(0, {root!r})
from bench.gpu.findings import *
Findings(pathlib.Path({folder!r})).add(Finding({stage!r}, "found", {outcome!r}))
"""
ENDS = {
    "returns": "",
    "hangs": "import time; time.sleep(60)",
    "hangs with children": "import subprocess; subprocess.run(['sleep', '60'])",
    "crashes": "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)",
    "fails": "raise RuntimeError('no')",
}


def fake(ends, outcome="passed"):
    """A command for a stage, by the way in which it ends."""

    def command(stage, folder, deadline, options=()):
        root = str(run.files.ROOT)
        found = FIND.format(root=root, folder=str(folder), stage=stage.name, outcome=outcome)
        return [sys.executable, "-c", found + ENDS[ends.get(stage.name, "returns")]]

    return command


def outcomes(findings, stage):
    return {finding.name: finding.outcome for finding in findings.read() if finding.stage == stage}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("ends", "expected"),
    [
        ("hangs", "timed out"),
        ("hangs with children", "timed out"),
        ("crashes", "crashed"),
        ("fails", "error"),
        ("returns", "passed"),
    ],
)
def test_a_stage_that_ends_badly_leaves_its_findings_and_the_later_stages(tmp_path, ends, expected):
    findings = Findings(tmp_path)
    first, second = (stages.Stage(name, 1, most, "") for name, most in (("contact", 5), ("tests", 20)))
    start = time.monotonic()
    run.run_stages([first, second], findings, 60, command=fake({"contact": ends}))
    assert time.monotonic() - start < 15
    assert outcomes(findings, "contact") == {"found": "passed", "": expected}
    assert outcomes(findings, "tests") == {"found": "passed", "": "passed"}
    printed = summary.table(findings)
    assert expected in printed.splitlines()[1]
    assert "1 passed" in printed.splitlines()[2]


def test_a_wrong_result_is_a_finding_and_no_end(tmp_path, capsys):
    findings = Findings(tmp_path)
    run.run_stages(named(["contact", "bits"]), findings, 60, command=fake({}, outcome="wrong"))
    assert outcomes(findings, "contact") == outcomes(findings, "bits") == {"found": "wrong", "": "passed"}
    assert run.main(["--render", "--out", str(tmp_path)]) == 0
    assert "found: wrong" in capsys.readouterr().out


@pytest.mark.parametrize(("outcome", "code"), [("passed", 0), ("skipped", 0), ("wrong", 1), ("timed out", 1)])
def test_the_exit_code_says_whether_anything_failed(tmp_path, monkeypatch, outcome, code):
    def find(stages, findings, *rest):
        findings.add(Finding("bits", "a", outcome))

    monkeypatch.setattr(run, "run_stages", find)
    assert run.main(["--out", str(tmp_path)]) == code


def test_the_budget_ends_the_visit(tmp_path):
    findings = Findings(tmp_path)
    run.run_stages(named(["contact", "tests"]), findings, 2, command=fake({}))
    assert outcomes(findings, "contact") == outcomes(findings, "tests") == {"": "not started"}


def test_limits_share_the_budget_and_what_a_stage_does_not_take():
    each = limits(STAGES, 480)
    assert sum(each) == pytest.approx(480)
    assert each[0] == 60
    assert limits(STAGES[1:2], 100) == [100]
    # Contact stays within its minute, whatever the budget.
    assert limits(STAGES[:2], 480) == [60, 420]
    assert limits(STAGES, 48)[0] == pytest.approx(6)


def test_stages_are_named():
    assert [stage.name for stage in named(["tests", "contact"])] == ["contact", "tests"]
    with pytest.raises(ValueError, match=r"GPU_STAGES: expected some of contact, .*, got 'test'"):
        named(["test"])


def test_chosen_stages_come_from_the_environment(tmp_path, monkeypatch, capsys):
    chosen = []
    monkeypatch.setattr(run, "run_stages", lambda stages, *rest: chosen.extend(stage.name for stage in stages))
    monkeypatch.setenv("GPU_STAGES", "bits,contact")
    monkeypatch.setenv("GPU_OUT", str(tmp_path))
    assert run.main([]) == 0
    assert chosen == ["contact", "bits"]
    monkeypatch.setenv("GPU_STAGES", "contacts")
    assert run.main([]) == 2
    assert "got 'contacts'" in capsys.readouterr().out


def test_a_visit_that_goes_on_keeps_what_was_found(tmp_path, monkeypatch):
    monkeypatch.setattr(run, "run_stages", lambda *given: None)
    findings = Findings(tmp_path)
    for stage in ("contact", "bits"):
        findings.add(Finding(stage, "a", "passed"))
        findings.add(Finding(stage, "b", "not started"))
        findings.add(Finding(stage, "c", "timed out"))
    assert findings.settled("bits") == {"a", "c"}
    run.main(["--resume", "--stages", "bits", "--out", str(tmp_path)])
    # What failed may have been mended.
    assert findings.settled("bits") == {"a"}
    assert findings.settled("contact") == {"a", "c"}
    run.main(["--resume", "--out", str(tmp_path)])
    run.main(["--stages", "bits", "--out", str(tmp_path)])
    assert findings.settled("bits") == set()
    assert findings.settled("contact") == {"a"}


def test_a_line_cut_short_costs_itself_alone(tmp_path):
    findings = Findings(tmp_path)
    findings.add(Finding("bits", "a", "passed"))
    with (tmp_path / FILE).open("a") as file:
        file.write('{"stage": "bits", "na\n[1]\n')
    findings.add(Finding("bits", "b", "wrong"))
    findings.add(Finding("bits", "a", "error"))
    assert outcomes(findings, "bits") == {"a": "error", "b": "wrong"}


def test_the_summary_shows_times_before_what_else_is_known(tmp_path):
    findings = Findings(tmp_path)
    for number in range(summary.LINES):
        findings.add(Finding("contact", f"call {number}", "passed", facts={"greedy_kernel": "64 registers"}))
    findings.add(Finding("speed", "divprune", "measured", facts={"microseconds": 24.0}))
    assert summary.table(findings).splitlines()[3] == "    divprune: measured, microseconds 24"


def test_the_summary_fits_a_screen(tmp_path):
    findings = Findings(tmp_path)
    assert summary.table(findings) == "GPU stages: nothing was found yet"
    for stage in STAGES:
        for number in range(50):
            outcome = "wrong" if number % 2 else "measured"
            findings.add(Finding(stage.name, f"{number} {'x' * 200}", outcome, detail="why", facts={"number": 1.25}))
        findings.add(Finding(stage.name, "", "timed out", 9.0, "killed after 9 s"))
    lines = summary.table(findings).splitlines()
    assert max(map(len, lines)) <= summary.WIDTH
    assert len(lines) <= summary.LINES
    assert sum(f" and {25 - summary.SHOWN_EACH} more" in line for line in lines) == len(STAGES)


@pytest.mark.parametrize("ends", ["time.sleep(60)", "pass"])
def test_what_a_command_started_ends_with_it(tmp_path, ends):
    started = tmp_path / "pid"
    code = (
        "import pathlib, subprocess, time\n"
        f"process = subprocess.Popen(['sleep', '60'], start_new_session={ends != 'pass'})\n"
        f"pathlib.Path({str(started)!r}).write_text(str(process.pid))\n{ends}"
    )
    run_command([sys.executable, "-c", code], 1, tmp_path / "log")
    assert_has_ended(int(started.read_text()))


def test_a_stage_does_not_wait_for_a_child_that_never_ends(tmp_path, monkeypatch):
    code = (
        "import multiprocessing, sys, time, types\n"
        "from bench.gpu import run, contact_stage\n"
        "def leave_a_child(*given):\n"
        "    multiprocessing.get_context('fork').Process(target=time.sleep, args=(60,)).start()\n"
        f"    {{}}\n"
        "contact_stage.run = leave_a_child\n"
        f"run.main(['--stage', 'contact', '--out', {str(tmp_path)!r}])\n"
    )
    for ends, outcome in (("pass", "passed"), ("raise RuntimeError('no')", "error")):
        ended = run_command([sys.executable, "-c", code.format(ends)], 20, tmp_path / "log")
        assert ended.outcome == outcome
    assert "RuntimeError: no" in (tmp_path / "log").read_text()
    assert Findings(tmp_path).of("contact")["what ended it"].detail == "RuntimeError: no"


def test_a_command_that_is_not_there_is_an_error(tmp_path):
    assert run_command(["no-such-command"], 1, tmp_path / "log").outcome == "error"


def test_output_is_kept_of_a_command_that_is_killed(tmp_path):
    command = [sys.executable, "-c", "import time; print('said', flush=True); time.sleep(60)"]
    ended = run_command(command, 2, tmp_path / "log")
    assert ended.outcome == "timed out"
    assert 2 <= ended.seconds < 10
    assert (tmp_path / "log").read_text() == "said\n"
