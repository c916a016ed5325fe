"""The instruction sets of the native backend, each forced in turn."""

import os
import re
import subprocess
import sys

import pytest
import torch

from tests.support.block_sizes import COUNT, scored, with_broken_rows
from tests.support.inputs import (
    DTYPES,
    METHODS,
    WITH_INITIAL,
    arguments,
    clustered_tokens,
    exact_tokens,
    exact_tokens_for,
    exact_weight,
    gaussian_tokens,
    judged,
    ops,
    oracle,
    random_weight,
)
from tests.support.isa import instruction_set, native_build
from tests.support.slow import slow_if
from tests.support.subprocess import python


def tied_rows():
    return exact_tokens(COUNT, 32, non_zeros=16)


ISAS = native_build()["supported_isas"]

SUITE = [
    "tests/operators/test_selection.py",
    "tests/operators/test_edge_rows.py",
    "tests/operators/test_initial.py",
    "tests/operators/test_varlen.py",
    "tests/operators/test_properties.py",
    "tests/native/test_block_sizes.py",
    "tests/operators/test_dpp.py",
]


@pytest.fixture(params=ISAS)
def isa(request):
    """Runs the test once on every instruction set."""
    with instruction_set(request.param):
        assert native_build()["isa"] == request.param
        yield request.param


@pytest.mark.kernel
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("count", "depth"), [(17, 1), (33, 31), (40, 33), (65, 1_000), (20, 2_100)])
def test_judged(isa, method, count, depth, dtype):
    judged(method, gaussian_tokens(count, depth).to(dtype), random_weight(count), count)


@pytest.mark.kernel
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("method", METHODS)
def test_clusters_and_broken_rows(isa, method, dtype):
    judged(method, clustered_tokens(200, 40, clusters=20).to(dtype), random_weight(200), 60)
    judged(method, with_broken_rows().to(dtype), random_weight(COUNT), COUNT)


@pytest.mark.kernel
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("method", METHODS)
def test_ties_go_to_the_lowest_index(isa, method, dtype):
    x, weight = exact_tokens_for(method, 70, 32, non_zeros=16).to(dtype), exact_weight(method, 70)
    assert torch.equal(getattr(ops, method)(*arguments(method, x, weight, 70)), oracle(method, x, weight, 70)[0])


@pytest.mark.kernel
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("method", WITH_INITIAL)
@pytest.mark.parametrize("make", [with_broken_rows, tied_rows], ids=["broken rows", "ties"])
def test_initial_rows(isa, method, dtype, make):
    x, weight = make().to(dtype), exact_weight(method, COUNT)
    indices, scores = scored(method, x, weight, COUNT)
    for length in range(0, COUNT, 7):
        more = scored(method, x, weight, COUNT - length, initial=indices[:length])
        assert torch.equal(more[0], indices[length:])
        assert torch.equal(more[1], scores[length:])
    judged(method, x, weight, 60, 0.5, torch.arange(2, COUNT, 3))


@pytest.mark.slow
@pytest.mark.parametrize("isa", ISAS)
def test_the_kernel_tests_pass_on_every_set(isa):
    check = f"import tokenprune_kernels as t; assert t.build_info()['backends']['native']['isa'] == {isa!r}"
    assert python(check, TOKENPRUNE_CPU_ISA=isa).returncode == 0
    result = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-x", "-m", "not gpu and not interpret", *SUITE],
        env={**os.environ, "TOKENPRUNE_CPU_ISA": isa},
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert result.returncode == 0, result.stdout[-3000:]


def different_results(isas, dtype):
    """How many different results the sets have on noise in all methods."""
    x, weight = gaussian_tokens(60, 2_100).to(dtype), random_weight(60)  # more than one chunk of D
    results = []
    for isa in isas:
        with instruction_set(isa):
            found = [scored(method, x, weight, 60) for method in METHODS]
        results.append(tuple(tensor.numpy().tobytes() for result in found for tensor in result))
    return len(set(results))


def test_sets_agree_bit_for_bit_where_products_are_exact():
    assert different_results(ISAS, torch.float16) == 1
    # These two add in an order of their own.
    assert different_results([isa for isa in ISAS if isa not in ("avx512_bf16", "amx")], torch.bfloat16) == 1


def test_sets_with_fused_multiply_adds_agree_bit_for_bit_on_float32():
    fused = [isa for isa in ISAS if isa != "portable"]
    if len(fused) < 2:
        pytest.skip("this processor has fewer than two such sets")
    assert different_results(fused, torch.float32) == 1


@pytest.mark.parametrize("isa", ["avx512_bf16", "amx"])
def test_instructions_for_bfloat16_are_used_for_it_alone(isa):
    if isa not in ISAS:
        pytest.skip(f"this processor has no {isa}")
    with instruction_set(isa):
        assert native_build()["isa_by_dtype"] == {"bfloat16": isa, "float16": "avx512", "float32": "avx512"}
    assert different_results(["avx512", isa], torch.bfloat16) == 2


def test_every_other_set_is_used_for_all_dtypes():
    for isa in {"portable", "avx2", "avx512"} & set(ISAS):
        with instruction_set(isa):
            assert native_build()["isa_by_dtype"] == {"bfloat16": isa, "float16": isa, "float32": isa}


def expected_one_of(variable, name):
    return f"{variable}: expected one of {', '.join(ISAS)} (what this processor and build support), got '{name}'"


def test_an_unknown_set_cannot_be_forced():
    before = native_build()["isa"]
    with pytest.raises(RuntimeError, match=re.escape(expected_one_of("_force_isa", "mmx"))), instruction_set("mmx"):
        pass
    assert native_build()["isa"] == before


def test_an_unknown_set_in_the_environment_is_a_reason_not_to_load():
    code = """
import torch, tokenprune_kernels as t
print(t.build_info()["backends"]["native"]["unavailable"]["cpu"])
"""
    reason = python(code, TOKENPRUNE_CPU_ISA="mmx").stdout.strip()
    assert reason == expected_one_of("TOKENPRUNE_CPU_ISA", "mmx")


@pytest.mark.parametrize("isa", ISAS)
@slow_if(lambda isa: isa != ISAS[0])
def test_the_environment_names_the_default(isa):
    code = """
import torch, tokenprune_kernels as t
force, isa = torch.ops.tokenprune_native._force_isa, lambda: t.build_info()["backends"]["native"]["isa"]
before = isa(); force({last!r}); forced = isa(); force(""); print(before, forced, isa())
"""
    found = python(code.format(last=ISAS[-1]), TOKENPRUNE_CPU_ISA=isa).stdout.split()
    assert found == [isa, ISAS[-1], isa]


@pytest.mark.skipif(bool(os.environ.get("TOKENPRUNE_CPU_ISA")), reason="the environment names another default")
def test_the_fastest_set_is_the_default():
    assert ISAS[0] == "portable"
    if not torch.backends.cpu.get_cpu_capability().startswith("DEFAULT"):
        assert len(ISAS) > 1
    assert native_build()["isa"] == ISAS[-1]
