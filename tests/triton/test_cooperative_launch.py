"""Cooperative launches: room to spare for all their programs, and what follows where a device refuses so many."""

import re

import pytest
import torch

from tests.support.inputs import arguments, gaussian_tokens, random_weight
from tests.support.slow import slow_if

triton = pytest.importorskip("triton", reason="the Triton backend needs triton")
if triton.knobs.runtime.interpret:
    pytest.skip("interpreted kernels are not launched", allow_module_level=True)
pytest.importorskip("bench", reason="the stand-in for a device is only in the source tree")

from bench.gpu.stand_in import stand_in_device  # noqa: E402
from tests.triton import test_machine_code as machine_code  # noqa: E402
from tokenprune_kernels.backends.triton import configs, kernels, operators, recorded_calls, runtime  # noqa: E402

TOO_LARGE = "Triton Error [CUDA]: too many blocks in cooperative launch"
REGISTER_UNIT = 8  # registers are given to a warp's threads eight at a time


@pytest.mark.parametrize("architecture", machine_code.ARCHITECTURES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
@slow_if(lambda architecture: architecture != 90)
def test_the_dpp_leaves_registers_to_spare(tmp_path, architecture, dtype):
    config = configs.dpp_config(dtype.itemsize)
    tensors = dict.fromkeys(("reciprocal_norm", "relevance", "gains", "factor", "scores"), torch.float32)
    tensors |= dict.fromkeys(("packed_picks", "indices"), torch.int64)
    tensors |= dict.fromkeys(("max_root_keys", "arrival_counter"), torch.int32) | {"x": dtype}
    constants = machine_code.base.tile_constants(config, 4_096) | {"WITH_SCORES": True} | machine_code.ALIGNED
    options = {"num_warps": config.num_warps, "num_stages": config.num_stages} | runtime.COOPERATIVE_OPTIONS
    compiled = machine_code.compiled(kernels.dpp_kernel, architecture, tensors, constants, **options)
    code = machine_code._disassembled(compiled.asm["cubin"], tmp_path)
    used = -(-machine_code.registers(code) // REGISTER_UNIT) * REGISTER_UNIT
    threads = config.programs * config.num_warps * 32
    # With one register more a thread, every program is still resident.
    assert threads * (used + REGISTER_UNIT) <= machine_code.REGISTERS
    assert not re.search(machine_code.LOCAL_MEMORY, code)


class Refusing:
    """In the place of `runtime.launch`: refuses cooperative launches of more programs than a device holds."""

    def __init__(self, most, monkeypatch):
        self.most, self.programs, self.launch = most, [], runtime.launch
        monkeypatch.setattr(runtime, "launch", self)

    def __call__(self, kernel, programs, tensors, sizes, constants, **options):
        if "launch_cooperative_grid" in options:
            self.programs.append(programs)
            assert sizes["programs"] == programs
            if programs > self.most:
                raise RuntimeError(TOO_LARGE)
        return self.launch(kernel, programs, tensors, sizes, constants, **options)


@pytest.fixture
def device(monkeypatch):
    """A device that launches nothing. Its cooperative grids are those of a CUDA device."""
    grid = runtime.cooperative_grid
    monkeypatch.setattr(recorded_calls, "_recorded", {})
    monkeypatch.setattr(runtime, "_refused", set())
    with stand_in_device() as driver, monkeypatch.context() as inner:

        class OnDevice:
            is_cuda, device = True, torch.device("cpu")

        inner.setattr(runtime, "cooperative_grid", lambda config, x: grid(config, OnDevice))
        yield driver


@pytest.mark.parametrize("method", ["divprune", "dpp"])
def test_a_device_that_refuses_two_programs_gets_one(device, monkeypatch, method):
    refusing = Refusing(132, monkeypatch)
    x, weight = gaussian_tokens(40, 64, dtype=torch.bfloat16), random_weight(40)
    select = operators.operator(method, "default")
    with runtime.settings(form="dpp" if method == "dpp" else "lazy_greedy"):
        with pytest.warns(RuntimeWarning, match="fewer than 2 programs of a cooperative launch"):
            select(*arguments(method, x, weight, 5))
        kernels_waiting = 1 if method == "dpp" else 2
        assert refusing.programs == [264, *[132] * kernels_waiting]
        assert len(device.launches) == 1 + kernels_waiting
        refusing.programs.clear()
        select(*arguments(method, x, weight, 5))
    assert refusing.programs == [132] * kernels_waiting


def test_a_device_that_refuses_one_program_is_an_error(device, monkeypatch):
    Refusing(100, monkeypatch)
    x = gaussian_tokens(40, 64, dtype=torch.bfloat16)
    with (
        runtime.settings(form="lazy_greedy"),
        pytest.warns(RuntimeWarning),
        pytest.raises(RuntimeError, match="too many blocks in cooperative launch"),
    ):
        operators.operator("divprune", "default")(x, 5)


def test_another_error_of_a_launch_is_not_taken_for_a_refusal(device, monkeypatch):
    def fail(*given, **options):
        raise RuntimeError("Triton Error [CUDA]: out of memory")

    monkeypatch.setattr(runtime, "launch", fail)
    x = gaussian_tokens(40, 64, dtype=torch.bfloat16)
    with runtime.settings(form="lazy_greedy"), pytest.raises(RuntimeError, match="out of memory"):
        operators.operator("divprune", "default")(x, 5)
    assert not runtime._refused


@pytest.mark.parametrize("count", [17, 2_880])
def test_slices_of_the_dpp_go_by_its_factor(count):
    with runtime.settings(workspace_limit=4 * 2_880 * 288 * 3):
        planned = operators.plan("dpp", (64, 2_880, 64), torch.bfloat16, k=288)
        assert planned.slice_items == 3
        assert operators.plan("dpp", (64, 2_880, 64), torch.bfloat16).slice_items == 1
        assert operators.plan("divprune", (64, count, 64), torch.bfloat16, k=1) == operators.plan(
            "divprune", (64, count, 64), torch.bfloat16
        )
