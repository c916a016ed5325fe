"""The instruction-set paths of the native backend, each forced in a process of its own."""

import os
import subprocess
import sys

import pytest
import torch

import tokenprune_kernels
from tests.support.subprocess import python

ISAS = tokenprune_kernels.build_info()["backends"]["native"]["supported_isas"]

SUITE = [
    "tests/operators/test_selection.py",
    "tests/operators/test_edge_rows.py",
    "tests/operators/test_varlen.py",
    "tests/operators/test_properties.py",
    "tests/native/test_block_sizes.py",
    "tests/operators/test_dpp.py",
]

BITS = """
import torch, tokenprune_kernels
assert tokenprune_kernels.build_info()["backends"]["native"]["isa"] == {isa!r}
x = torch.randn(60, 1000, generator=torch.Generator().manual_seed(0)).{dtype}()
print(torch.ops.tokenprune.divprune.scores(x, 60)[1].view(torch.int32).tolist())
"""


@pytest.mark.slow
@pytest.mark.parametrize("isa", ISAS)
def test_the_kernel_tests_pass_on_every_path(isa):
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


def bits(isas, dtype):
    outputs = {python(BITS.format(isa=isa, dtype=dtype), TOKENPRUNE_CPU_ISA=isa).stdout for isa in isas}
    assert outputs != {""}
    return outputs


def test_paths_agree_bit_for_bit_where_products_are_exact():
    # These two add in an order of their own.
    assert len(bits([isa for isa in ISAS if isa != "amx"], "half")) == 1
    assert len(bits([isa for isa in ISAS if isa not in ("avx512_bf16", "amx")], "bfloat16")) == 1


def test_the_bfloat16_path_is_taken():
    if "avx512_bf16" not in ISAS:
        pytest.skip("this processor has no AVX-512 BF16")
    assert len(bits(["avx512", "avx512_bf16"], "bfloat16")) == 2


def test_the_fused_paths_agree_bit_for_bit_on_float32():
    fused = [isa for isa in ISAS if isa not in ("portable", "amx")]
    if len(fused) < 2:
        pytest.skip("this processor has fewer than two fused paths")
    assert len(bits(fused, "float")) == 1


def test_an_unknown_path_is_a_reason_not_to_load():
    code = """
import torch, tokenprune_kernels as t
print(t.build_info()["backends"]["native"]["unavailable"]["cpu"])
"""
    reason = python(code, TOKENPRUNE_CPU_ISA="mmx").stdout.strip()
    names = ", ".join(ISAS)
    assert reason == (f"TOKENPRUNE_CPU_ISA: expected one of {names} (what this processor and build support), got 'mmx'")


def test_the_fastest_path_is_the_default():
    assert ISAS[0] == "portable"
    if not torch.backends.cpu.get_cpu_capability().startswith("DEFAULT"):
        assert len(ISAS) > 1
    built = tokenprune_kernels.build_info()["backends"]["native"]
    assert built["isa"] == built["supported_isas"][-1]
