"""Every documented error, the same in the operator, the compiled operator, the Python API and the fake."""

import re

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

import tokenprune_kernels
from tests.support.inputs import WITH_INITIAL
from tokenprune_kernels.methods import METHODS

X = torch.ones(2, 5, 3)
W = torch.ones(2, 5)
GIVEN = torch.tensor([[0, 1], [4, 2]])
PACKED = torch.ones(9, 3)
PACKED_W = torch.ones(9)
SUMS = torch.tensor([0, 4, 9], dtype=torch.int32)
KEPT = torch.tensor([0, 2, 3], dtype=torch.int32)

NO_TOKENS = "x to have shape [..., N, D] with D >= 1, got shape"
NO_INITIAL = "initial to have shape [2, M] (x without its last two dimensions, and M rows), got shape"
NO_PACKED_TOKENS = "x to have shape [T, D] with D >= 1, got shape"

DENSE = [  # what replaces which argument, and what the error says
    ({"x": torch.ones(5)}, ValueError, f"{NO_TOKENS} [5]"),
    ({"x": torch.tensor(1.0)}, ValueError, f"{NO_TOKENS} []"),
    ({"x": torch.ones(2, 5, 0)}, ValueError, f"{NO_TOKENS} [2, 5, 0]"),
    ({"x": X.double()}, TypeError, "x to be float16, bfloat16 or float32, got float64"),
    ({"x": X.to(torch.int64)}, TypeError, "x to be float16, bfloat16 or float32, got int64"),
    ({"x": X.to(torch.complex64)}, TypeError, "x to be float16, bfloat16 or float32, got complex64"),
    ({"k": -1}, ValueError, "k to be in [0, N] with N = 5, got -1"),
    ({"k": 6}, ValueError, "k to be in [0, N] with N = 5, got 6"),
]
WEIGHTED = [
    ({"w": torch.ones(2, 4)}, ValueError, "{w} to have shape [2, 5] (x without its last dimension), got shape [2, 4]"),
    ({"w": torch.ones(5)}, ValueError, "{w} to have shape [2, 5] (x without its last dimension), got shape [5]"),
    ({"w": W.int()}, TypeError, "{w} to be float16, bfloat16, float32 or float64, got int32"),
    ({"w": W.bool()}, TypeError, "{w} to be float16, bfloat16, float32 or float64, got bool"),
    ({"lam": -0.1}, ValueError, "lam to be in [0, 1], got -0.1"),
    ({"lam": 1.5}, ValueError, "lam to be in [0, 1], got 1.5"),
    ({"lam": 1.0000001}, ValueError, "lam to be in [0, 1], got 1.0000001"),
    ({"lam": float("nan")}, ValueError, "lam to be in [0, 1], got nan"),
]
INITIAL = [
    ({"initial": GIVEN[0]}, ValueError, f"{NO_INITIAL} [2]"),
    ({"initial": GIVEN[:1]}, ValueError, f"{NO_INITIAL} [1, 2]"),
    ({"initial": GIVEN[None]}, ValueError, f"{NO_INITIAL} [1, 2, 2]"),
    ({"initial": GIVEN.int()}, TypeError, "initial to be int64, got int32"),
    ({"initial": GIVEN.bool()}, TypeError, "initial to be int64, got bool"),
    ({"initial": GIVEN, "k": 4}, ValueError, "k to be in [0, N - M] with N = 5 and M = 2 initial rows, got 4"),
    ({"initial": GIVEN, "k": -1}, ValueError, "k to be in [0, N - M] with N = 5 and M = 2 initial rows, got -1"),
    (
        {"initial": torch.arange(12).reshape(2, 6), "k": 0},
        ValueError,
        "k to be in [0, N - M] with N = 5 and M = 6 initial rows, got 0",
    ),
]
VARLEN = [
    ({"x": X}, ValueError, f"{NO_PACKED_TOKENS} [2, 5, 3]"),
    ({"x": torch.ones(9, 0)}, ValueError, f"{NO_PACKED_TOKENS} [9, 0]"),
    ({"x": PACKED.double()}, TypeError, "x to be float16, bfloat16 or float32, got float64"),
    ({"cu_seqlens": SUMS[None]}, ValueError, "cu_seqlens to have shape [S + 1] with S >= 0, got shape [1, 3]"),
    ({"cu_seqlens": SUMS[:0]}, ValueError, "cu_seqlens to have shape [S + 1] with S >= 0, got shape [0]"),
    ({"cu_k": KEPT[:2]}, ValueError, "cu_k to have the shape of cu_seqlens, [3], got shape [2]"),
    ({"cu_k": KEPT[None]}, ValueError, "cu_k to have the shape of cu_seqlens, [3], got shape [1, 3]"),
    ({"cu_seqlens": SUMS.long()}, TypeError, "cu_seqlens to be int32, got int64"),
    ({"cu_k": KEPT.float()}, TypeError, "cu_k to be int32, got float32"),
    ({"total_k": -1}, ValueError, "total_k to be at least 0, got -1"),
    ({"max_seqlen": -2}, ValueError, "max_seqlen to be at least 0, got -2"),
]
PACKED_WEIGHTED = [
    ({"w": W}, ValueError, "{w} to have shape [9] (x without its last dimension), got shape [2, 5]"),
    ({"w": PACKED_W[:8]}, ValueError, "{w} to have shape [9] (x without its last dimension), got shape [8]"),
    ({"w": PACKED_W.long()}, TypeError, "{w} to be float16, bfloat16, float32 or float64, got int64"),
    ({"lam": 2.0}, ValueError, "lam to be in [0, 1], got 2"),
]


def cases():
    for method, needs in METHODS.items():
        for name, tables in {method: (DENSE, WEIGHTED), f"{method}_varlen": (VARLEN, PACKED_WEIGHTED)}.items():
            initial = INITIAL if needs.has_initial and name == method else []
            for case in [*tables[0], *(tables[1] if needs.weight else []), *initial]:
                if "lam" in case[0] and not needs.has_lam:
                    continue
                yield pytest.param(name, *case, id=f"{name}-{next(iter(case[0]))}-{case[2].rpartition(' got ')[2]}")


def method_of(name):
    return METHODS[name.removesuffix("_varlen")]


def arguments(name, replaced):
    method = method_of(name)
    varlen = name.endswith("_varlen")
    given = {"x": PACKED if varlen else X, "w": PACKED_W if varlen else W}
    given |= {"cu_seqlens": SUMS, "cu_k": KEPT, "total_k": 3, "max_seqlen": 5} if varlen else {"k": 2}
    given |= {"lam": 0.5}
    given |= replaced
    if method.weight is None:
        del given["w"]
    if not method.has_lam:
        del given["lam"]
    return {method.weight if key == "w" else key: value for key, value in given.items()}


@pytest.mark.parametrize(("name", "replaced", "error", "message"), list(cases()))
@pytest.mark.parametrize("called", ["operator", "scores", "compiled", "compiled scores", "function", "fake"])
def test_the_message_names_the_argument_the_rule_and_what_came(called, name, replaced, error, message):
    expected = f"{name}: expected {message.format(w=method_of(name).weight)}"
    given = arguments(name, replaced)
    packet = getattr(torch.ops.tokenprune_native if "compiled" in called else torch.ops.tokenprune, name)
    if "compiled" in called:
        error = RuntimeError  # torch's stable interface has no other
    with pytest.raises(error) as raised:  # noqa: PT012 - the fake mode has to be entered inside
        if called == "function":
            getattr(tokenprune_kernels, name)(**given)
        elif called == "fake":
            with FakeTensorMode(allow_non_fake_inputs=True) as mode:
                fakes = {k: mode.from_tensor(v) if isinstance(v, torch.Tensor) else v for k, v in given.items()}
                packet(**fakes)
        else:
            (packet.scores if "scores" in called else packet)(**given)
    assert str(raised.value).partition("\n")[0].removesuffix(" (min(k, N) keeps all)") == expected


@pytest.mark.parametrize(("name", "argument"), [("mmr", "relevance"), ("divprune_varlen", "cu_k")])
def test_tensors_must_share_a_device(name, argument):
    given = arguments(name, {"w" if argument == "relevance" else argument: torch.ones(2, 5, device="meta")})
    if argument == "cu_k":
        given["cu_k"] = KEPT.to("meta")
    message = f"^{name}: expected {argument} to be on the device of x, cpu, got meta"
    for call in (getattr(torch.ops.tokenprune, name), getattr(tokenprune_kernels, name)):
        with pytest.raises(ValueError, match=message):
            call(**given)


@pytest.mark.parametrize("function", list(METHODS))
@pytest.mark.parametrize(
    ("budget", "message"),
    [
        ({}, "expected exactly one of k and keep_ratio to be given, got k=None and keep_ratio=None"),
        (
            {"k": 1, "keep_ratio": 0.5},
            "expected exactly one of k and keep_ratio to be given, got k=1 and keep_ratio=0.5",
        ),
        ({"keep_ratio": 0.0}, "expected keep_ratio to be in (0, 1], got 0"),
        ({"keep_ratio": -0.5}, "expected keep_ratio to be in (0, 1], got -0.5"),
        ({"keep_ratio": 1.01}, "expected keep_ratio to be in (0, 1], got 1.01"),
        ({"keep_ratio": float("nan")}, "expected keep_ratio to be in (0, 1], got nan"),
    ],
)
def test_budgets(function, budget, message):
    weights = () if function == "divprune" else (W,)
    with pytest.raises(ValueError, match=f"^{re.escape(f'{function}: {message}')}$"):
        getattr(tokenprune_kernels, function)(X, *weights, **budget)


@pytest.mark.parametrize(
    ("function", "given", "argument"),
    [
        ("divprune", (None, 2), "x"),
        ("mmr", (X, None, 2), "relevance"),
        ("idpruner", (X, None, 2), "importance"),
        ("dpp_varlen", (PACKED, None, SUMS, KEPT), "relevance"),
        ("divprune_varlen", (PACKED, None, KEPT), "cu_seqlens"),
        ("mmr_varlen", (PACKED, PACKED_W, SUMS, None), "cu_k"),
    ],
)
def test_a_missing_tensor_is_named(function, given, argument):
    with pytest.raises(TypeError, match=f"^{function}: expected {argument} to be a tensor, got None$"):
        getattr(tokenprune_kernels, function)(*given)


def test_a_ratio_is_a_number():
    with pytest.raises(TypeError, match=r"^divprune: expected keep_ratio to be a number, got '0.5'$"):
        tokenprune_kernels.divprune(X, keep_ratio="0.5")


def test_a_ratio_of_a_tensor_without_rows_names_x():
    with pytest.raises(ValueError, match=re.escape(f"divprune: expected {NO_TOKENS} [5]")):
        tokenprune_kernels.divprune(torch.ones(5), keep_ratio=0.5)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"method": "fastv", "k": 1}, "expected method to be one of divprune, mmr, idpruner, dpp, got 'fastv'"),
        ({"method": "mmr", "k": 1}, "expected relevance to be a tensor with method 'mmr', got None"),
        (
            {"method": "idpruner", "relevance": W, "k": 1},
            "expected relevance to be None with method 'idpruner', got a tensor",
        ),
        ({"importance": W, "k": 1}, "expected importance to be None with method 'divprune', got a tensor"),
        ({"k": 1, "cu_k": KEPT}, "expected cu_k to be None without cu_seqlens, got a tensor"),
        ({"k": 1, "max_seqlen": 4}, "expected max_seqlen to be None without cu_seqlens, got 4"),
        ({"k": 1, "cu_seqlens": SUMS, "cu_k": KEPT}, "expected k to be None with cu_seqlens, got 1"),
        (
            {"keep_ratio": 0.5, "cu_seqlens": SUMS, "cu_k": KEPT},
            "expected keep_ratio to be None with cu_seqlens, got 0.5",
        ),
        ({"cu_seqlens": SUMS}, "expected cu_k to be a tensor with cu_seqlens, got None"),
        ({"k": 1, "lam": 0.5}, "expected lam to be None with method 'divprune', got 0.5"),
        ({"method": "dpp", "k": 1}, "expected relevance to be a tensor with method 'dpp', got None"),
        (
            {"method": "dpp", "relevance": W, "k": 1, "lam": 0.5},
            "expected lam to be None with method 'dpp', got 0.5",
        ),
    ],
)
def test_prune(given, message):
    with pytest.raises(ValueError, match=f"^prune: {re.escape(message)}$"):
        tokenprune_kernels.prune(X, **given)


@pytest.mark.parametrize("method", WITH_INITIAL)
@pytest.mark.parametrize("k", [0, 2])
@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([0, 5], "initial to hold rows in [0, N) with N = 5, got 5"),
        ([-1, 0], "initial to hold rows in [0, N) with N = 5, got -1"),
        ([3, 3], "initial to hold different rows, got 3 twice"),
    ],
)
def test_the_contents_of_initial(method, k, rows, message):
    line = f"^{method}: expected {re.escape(message)}$"
    given = arguments(method, {"k": k, "initial": torch.tensor([[0, 1], rows])})
    for call in (getattr(torch.ops.tokenprune, method), getattr(tokenprune_kernels, method)):
        with pytest.raises(ValueError, match=line):
            call(**given)
    with pytest.raises(RuntimeError, match=line):
        getattr(torch.ops.tokenprune_native, method).scores(**given)


@pytest.mark.parametrize("method", WITH_INITIAL)
def test_initial_is_a_tensor_on_the_device_of_x_and_goes_with_k(method):
    call = getattr(tokenprune_kernels, method)
    with pytest.raises(ValueError, match=f"^{method}: expected initial to be on the device of x, cpu, got meta"):
        call(**arguments(method, {"initial": GIVEN.to("meta")}))
    with pytest.raises(TypeError, match=f"^{method}: expected initial to be a tensor, got list"):
        call(**arguments(method, {"initial": [0]}))
    with pytest.raises(ValueError, match=f"^{method}: expected keep_ratio to be None with initial, got 0.5$"):
        call(**arguments(method, {"k": None, "initial": GIVEN}), keep_ratio=0.5)


@pytest.mark.parametrize("name", ["dpp", *(f"{method}_varlen" for method in METHODS)])
def test_the_other_operators_have_no_initial(name):
    with pytest.raises(RuntimeError, match="failed to match any schema"):
        getattr(torch.ops.tokenprune, name)(**arguments(name, {}), initial=GIVEN)


@pytest.mark.parametrize("weight_dtype", [torch.float32, torch.float64, torch.float16], ids=str)
@pytest.mark.parametrize("k", [0, 2])
def test_a_negative_relevance_of_the_dpp_is_an_error_on_the_cpu(weight_dtype, k):
    relevance = W.to(weight_dtype).clone()
    relevance[1, 3] = -0.5
    line = r"^dpp: expected relevance to be at least 0, got -0\.5$"
    for call in (torch.ops.tokenprune.dpp, tokenprune_kernels.dpp):
        with pytest.raises(ValueError, match=line):
            call(X, relevance, k)
    with pytest.raises(RuntimeError, match=line):
        torch.ops.tokenprune_native.dpp.scores(X, relevance, k)
    packed = PACKED_W.to(weight_dtype).clone()
    packed[2] = -0.5
    with pytest.raises(ValueError, match=r"^dpp_varlen: expected relevance to be at least 0, got -0\.5$"):
        tokenprune_kernels.dpp_varlen(PACKED, packed, SUMS, KEPT)


def test_a_negative_relevance_that_is_in_no_segment_or_rounds_to_zero_or_is_infinite_is_none():
    spare = torch.cat([PACKED_W, torch.tensor([-1.0])])
    expected = tokenprune_kernels.dpp_varlen(PACKED, PACKED_W, SUMS, KEPT)
    assert torch.equal(tokenprune_kernels.dpp_varlen(torch.ones(10, 3), spare, SUMS, KEPT), expected)
    relevance = torch.tensor([-1e-300, 1.0, -torch.inf], dtype=torch.float64)
    assert tokenprune_kernels.dpp(torch.eye(3), relevance, 3).tolist() == [1, 0, 2]
