"""The thread team of the native backend: a stress program without torch, and the operators from many threads."""

import os
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from tests.support.inputs import METHODS, arguments, gaussian_tokens, ops, random_weight
from tests.support.subprocess import python

SOURCES = Path(__file__).parent.parent.parent / "csrc" / "cpu" / "threads"


@pytest.mark.parametrize(
    "sanitizer",
    ["none", *(pytest.param(each, marks=pytest.mark.slow) for each in ("thread", "address,undefined"))],
)
def test_stress(tmp_path, sanitizer):
    compiler = shutil.which("c++") or pytest.skip("needs a C++ compiler")
    if os.environ.get("LD_PRELOAD"):
        pytest.skip("a preloaded sanitizer runtime would run beside that of the program")
    program = tmp_path / "stress"
    options = ["-std=c++20", "-O1", "-g", "-pthread", "-I", str(SOURCES)]
    if sanitizer != "none":
        options.append(f"-fsanitize={sanitizer}")
    files = [Path(__file__).parent / "thread_team_stress.cpp", SOURCES / "thread_team.cpp", SOURCES / "processors.cpp"]
    subprocess.run([compiler, *options, *map(str, files), "-o", str(program)], check=True, timeout=300)
    # A sanitizer has threads of its own, which a forked child lacks.
    forking = "fork" if sanitizer == "none" else "stay"
    # ThreadSanitizer needs the addresses that it expects.
    fixed_addresses = [setarch, "-R"] if (setarch := shutil.which("setarch")) and sanitizer == "thread" else []
    result = subprocess.run(
        [*fixed_addresses, str(program), str(tmp_path / "root"), forking],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert (result.stdout, result.returncode) == ("done\n", 0), result.stderr[-3000:]


@pytest.mark.parametrize("method", METHODS)
def test_many_threads_may_call_at_once(method, threads):
    threads(2)
    given = [
        arguments(method, gaussian_tokens(count, 700, seed=count), random_weight(count), count // 4)
        for count in (150, 400, 700)
    ]
    expected = [getattr(ops, method).scores(*each) for each in given]
    with ThreadPoolExecutor(8) as pool:
        for _ in range(5):
            found = pool.map(lambda each: getattr(ops, method).scores(*each), given * 4)
            for result, right in zip(found, expected * 4, strict=True):
                assert all(map(torch.equal, result, right))


@pytest.mark.parametrize("count", [1, 3, 64])
def test_more_threads_than_processors_change_no_bit(count, force_threads):
    x = torch.cat([gaussian_tokens(500, 800), gaussian_tokens(100, 800).repeat(4, 1)]).bfloat16()
    force_threads(1)
    expected = ops.divprune.scores(x, 300)
    batch = ops.divprune.scores(x.view(9, 100, 800), 40)
    force_threads(count)
    assert all(map(torch.equal, ops.divprune.scores(x, 300), expected))
    assert all(map(torch.equal, ops.divprune.scores(x.view(9, 100, 800), 40), batch))


@pytest.mark.parametrize("start", ["os.fork", "multiprocessing"])
def test_a_forked_child_selects(start):
    code = {
        "os.fork": """
child = os.fork()
if child == 0:
    signal.alarm(60)
    os._exit(0 if torch.equal(torch.ops.tokenprune.divprune(x, 200), expected) else 1)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
""",
        "multiprocessing": """
import multiprocessing
select = torch.ops.tokenprune.divprune
def right(_):
    return torch.equal(select(x, 200), expected)
with multiprocessing.get_context("fork").Pool(2) as pool:
    print(0 if all(pool.map_async(right, range(4)).get(60)) else 1)
""",
    }[start]
    result = python(
        f"""
import os, signal, torch, tokenprune_kernels
torch.set_num_threads(2)
x = torch.randn(800, 900)
expected = torch.ops.tokenprune.divprune(x, 200)
{code}
"""
    )
    assert result.stdout.strip() == "0", result.stderr


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="needs a way to choose processors")
def test_a_process_that_may_use_one_processor_uses_one_thread():
    result = python(
        """
import os, torch, tokenprune_kernels
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
torch.set_num_threads(2)
x = torch.randn(800, 900)
before = len(os.listdir("/proc/self/task"))
torch.ops.tokenprune_native.divprune(x, 200)
print(len(os.listdir("/proc/self/task")) - before)
""",
    )
    assert result.stdout.strip() == "0", result.stderr
