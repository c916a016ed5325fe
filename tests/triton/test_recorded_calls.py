"""Calls made again from a record launch what they would launch through the forms. Launches are counted, not made."""

import dataclasses
import itertools

import pytest
import torch

from tests.support.inputs import METHODS, arguments, gaussian_tokens, random_weight
from tests.support.slow import slow_if
from tests.support.varlen import prefix_sums, varlen_arguments

triton = pytest.importorskip("triton", reason="the Triton backend needs triton")
if triton.knobs.runtime.interpret:
    pytest.skip("interpreted kernels have no handles", allow_module_level=True)
pytest.importorskip("bench", reason="the stand-in for a device is only in the source tree")

from bench.gpu.stand_in import stand_in_device  # noqa: E402
from tokenprune_kernels.backends.triton import configs, kernels, operators, recorded_calls, runtime  # noqa: E402

COUNT, DEPTH, K = 40, 64, 5
# Each compiles kernels of its own.
NOT_SLOW = (("divprune", "default"), ("divprune_varlen", "scores"), ("mmr", "default"), ("dpp", "scores"))


@pytest.fixture
def device(monkeypatch):
    monkeypatch.setattr(recorded_calls, "_recorded", {})
    with stand_in_device() as driver:
        yield driver


@pytest.fixture
def workspaces(monkeypatch):
    """Every tensor that is allocated, and what it is filled with."""
    made, allocated = [], recorded_calls.allocated

    def noted(shape, dtype, device, fill):
        tensor = allocated(shape, dtype, device, fill)
        made.append((tensor, fill))
        return tensor

    monkeypatch.setattr(recorded_calls, "allocated", noted)
    return made


def given(operator, seed=0):
    """Arguments of an operator on one item, or on three segments."""
    method, _, varlen = operator.partition("_")
    x, weight = gaussian_tokens(COUNT, DEPTH, dtype=torch.bfloat16, seed=seed), random_weight(COUNT, seed=seed)
    if not varlen:
        return arguments(method, x, weight, K)
    return varlen_arguments(method, x, weight, prefix_sums(30, 0, 10), prefix_sums(4, 0, 1), K, COUNT)


def made(device, operator, overload, tensors):
    """The launches of a call, and its result."""
    device.launches.clear()
    result = operators.operator(operator, overload)(*tensors)
    return list(device.launches), result


def recorded():
    return sum(isinstance(record, recorded_calls.RecordedCall) for record in recorded_calls._recorded.values())


def place_of(address, tensors):
    """Which tensor an address is in, and how far from its start; None if in none."""
    for number, (tensor, fill) in enumerate(tensors):
        if tensor.data_ptr() <= address < tensor.data_ptr() + max(1, tensor.nbytes):
            return number, address - tensor.data_ptr(), fill
    return None


@pytest.mark.parametrize("overload", ["default", "scores"])
@pytest.mark.parametrize("operator", [name + suffix for suffix in ("", "_varlen") for name in METHODS])
@slow_if(lambda operator, overload: (operator, overload) not in NOT_SLOW)
def test_the_third_call_launches_what_the_first_did(device, workspaces, operator, overload):
    first, _ = made(device, operator, overload, given(operator))
    second, _ = made(device, operator, overload, given(operator))
    assert recorded() == 1
    originals = [tensor for launch in second for tensor in launch.arguments if isinstance(tensor, torch.Tensor)]
    fills = {tensor.data_ptr(): fill for tensor, fill in workspaces if fill is not None}
    workspaces.clear()
    tensors = given(operator, seed=1)
    again, result = made(device, operator, overload, tensors)
    results = [result] if isinstance(result, torch.Tensor) else list(result)
    inputs = [tensor for tensor in tensors if isinstance(tensor, torch.Tensor)]
    known = [(tensor, None) for tensor in (*inputs, *results)]
    assert [(launch.kernel, launch.programs) for launch in again] == [(one.kernel, one.programs) for one in first]
    places = {}
    for mine, theirs in zip(again, second, strict=True):
        for value, original in zip(mine.arguments, theirs.arguments, strict=True):
            if not isinstance(original, torch.Tensor):
                assert value == original
                continue
            assert value % 16 == 0
            # One tensor of the recorded call is one place of this call.
            assert places.setdefault(id(original), value) == value
            place = place_of(value, known)
            if place is None:
                number, offset, fill = place_of(value, workspaces)
                assert offset + original.nbytes <= workspaces[number][0].nbytes
                assert fill == fills.get(original.data_ptr())
            else:
                assert place[1] == 0
                assert known[place[0]][0].shape == original.shape or original.dim() == 3
    sizes = {id(original): original.nbytes for original in originals}
    ends = sorted((start, start + sizes[which]) for which, start in places.items())
    assert all(end <= start for (_, end), (start, _) in itertools.pairwise(ends)), "workspaces overlap"


@pytest.mark.parametrize(
    "changed",
    [
        lambda x, k: (x[1:], k),
        lambda x, k: (x.half(), k),
        lambda x, k: (x, k + 1),
        lambda x, k: (x[None], k),
        lambda x, k: (torch.cat([x, x], dim=1)[:, :DEPTH], k),
        lambda x, k: (x.new_zeros(x.numel() + 1)[1:].view(x.shape), k),
    ],
    ids=["N", "dtype", "k", "shape", "stride", "address"],
)
def test_what_is_not_alike_is_not_made_from_the_same_record(device, changed):
    x = gaussian_tokens(COUNT, DEPTH, dtype=torch.bfloat16)
    for _ in range(3):
        operators.operator("divprune", "default")(x, K)
    known = dict(recorded_calls._recorded)
    for count in (1, 2):
        operators.operator("divprune", "default")(*changed(x, K))
        assert len(recorded_calls._recorded) == len(known) + 1
        assert recorded() == count


def test_lam_is_part_of_a_kind(device):
    x, weight = gaussian_tokens(COUNT, DEPTH, dtype=torch.bfloat16), random_weight(COUNT)
    for lam in (0.25, 0.5):
        for _ in range(3):
            launches, _ = made(device, "mmr", "default", (x, weight, K, lam))
            assert {lam, 1 - lam} <= {each for each in launches[-1].arguments if isinstance(each, float)}
    assert recorded() == 2


def test_another_configuration_drops_the_records(device, monkeypatch):
    x = gaussian_tokens(COUNT, DEPTH, dtype=torch.bfloat16)
    for _ in range(3):
        before, _ = made(device, "divprune", "default", (x, K))
    config = dataclasses.replace(configs.similarity_config(2, COUNT, DEPTH, 90, aligned=True), block_d=32)
    monkeypatch.setattr(configs, "similarity_config", lambda *_: config)
    after, _ = made(device, "divprune", "default", (x, K))
    assert recorded() == 0
    block_d = kernels.similarity_kernel.arg_names.index("BLOCK_D")
    assert before[1].arguments[block_d] == 64
    assert after[1].arguments[block_d] == 32


def test_settings_of_a_context_are_followed(device):
    x = gaussian_tokens(COUNT, DEPTH, dtype=torch.bfloat16)
    for _ in range(3):
        made(device, "divprune", "default", (x, K))
    with runtime.settings(form="lazy_greedy"):
        launches, _ = made(device, "divprune", "default", (x, K))
    assert [launch.kernel for launch in launches] == ["row_norm_kernel", "outlier_kernel", "lazy_greedy_kernel"]
    before = runtime.set_default(form="lazy_greedy")
    try:
        launches, _ = made(device, "divprune", "default", (x, K))
    finally:
        runtime.set_default(form=before.form)
    assert launches[1].kernel == "outlier_kernel"


def test_tensors_that_have_to_be_copied_are_not_recorded(device):
    x, weight = gaussian_tokens(DEPTH, COUNT, dtype=torch.bfloat16).mT, random_weight(2 * COUNT)[::2]
    aligned = gaussian_tokens(COUNT, DEPTH, dtype=torch.bfloat16)
    for tensors in ((x, random_weight(COUNT), K, 0.5), (aligned, weight, K, 0.5)):
        for _ in range(3):
            launches, _ = made(device, "mmr", "default", tensors)
            assert len(launches) == 3
    assert recorded() == 0


def test_slices_are_not_recorded(device):
    x = gaussian_tokens(3, COUNT, DEPTH, dtype=torch.bfloat16)
    before = runtime.set_default(workspace_limit=4 * COUNT**2)
    try:
        for _ in range(3):
            launches, _ = made(device, "divprune", "default", (x, K))
            assert len(launches) == 9
        assert recorded() == 0
    finally:
        runtime.set_default(workspace_limit=before.workspace_limit)


def test_records_are_bounded(device, monkeypatch):
    monkeypatch.setattr(recorded_calls, "MOST_RECORDED", 3)
    x = gaussian_tokens(COUNT, DEPTH, dtype=torch.bfloat16)
    for k in range(1, 9):
        operators.operator("divprune", "default")(x, k)
        assert len(recorded_calls._recorded) <= 3


def test_profilers_see_every_launch(device, monkeypatch):
    x, seen = gaussian_tokens(COUNT, DEPTH, dtype=torch.bfloat16), []
    for _ in range(3):
        made(device, "divprune", "default", (x, K))
    hook = triton.knobs.runtime.launch_enter_hook
    hook.add(seen.append)
    try:
        assert not runtime.is_recordable()
        launches, _ = made(device, "divprune", "default", (x, K))
        assert len(launches) == 3
    finally:
        hook.remove(seen.append)
    assert runtime.is_recordable()


def test_a_record_holds_no_tensor(device):
    x = gaussian_tokens(COUNT, DEPTH, dtype=torch.bfloat16)
    for _ in range(2):
        made(device, "divprune", "default", (x, K))
    (record,) = recorded_calls._recorded.values()
    assert not any(isinstance(value, torch.Tensor) for *_, values, _ in record.launches for value in values)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("overload", ["default", "scores"])
@pytest.mark.parametrize("operator", [name + suffix for suffix in ("", "_varlen") for name in METHODS])
def test_a_recorded_call_gives_the_bits_of_the_forms(operator, overload):
    select = getattr(getattr(torch.ops.tokenprune, operator), overload)
    stream = torch.cuda.Stream()
    for seed in range(5):
        tensors = [each.cuda() if isinstance(each, torch.Tensor) else each for each in given(operator, seed)]
        torch.cuda.synchronize()
        with torch.cuda.stream(stream if seed == 4 else torch.cuda.current_stream()):
            result = select(*tensors)
        torch.cuda.synchronize()
        with runtime.settings(form=None):  # is not recorded
            expected = select(*tensors)
        results, expectations = ([each] if isinstance(each, torch.Tensor) else each for each in (result, expected))
        for mine, theirs in zip(results, expectations, strict=True):
            assert torch.equal(mine.view(torch.int32), theirs.view(torch.int32))
