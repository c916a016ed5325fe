"""That the buckets of `runtime.launch` are what Triton compiles for, told by Triton's own key, without a GPU."""

import collections
import random

import pytest
import torch

from tests.support.inputs import METHODS, arguments
from tests.support.varlen import varlen_arguments

triton = pytest.importorskip("triton", reason="the Triton backend needs triton")
if triton.knobs.runtime.interpret:
    pytest.skip("interpreted kernels are not compiled", allow_module_level=True)

from triton.backends.compiler import GPUTarget  # noqa: E402
from triton.compiler import make_backend  # noqa: E402
from triton.runtime.jit import create_function_from_signature  # noqa: E402

from tokenprune_kernels.backends.triton import kernels, operators, rows, runtime  # noqa: E402

KERNELS = tuple(name for name in kernels.__all__ if name.endswith("_kernel"))


class Recorder:
    """In the place of a kernel: what Triton would compile each launch for."""

    def __init__(self, kernel, keys):
        self.__name__ = kernel.__name__
        backend = make_backend(GPUTarget("cuda", 90, 32))
        self.bind = create_function_from_signature(kernel.signature, kernel.params, backend)
        self.keys = keys

    def __getitem__(self, grid):
        return self.launch

    def launch(self, **options):
        _, specialisation, options = self.bind(**options, debug=False, instrumentation_mode="")
        self.keys.append((self.__name__, str(specialisation), str(options)))


class Buckets(set):
    """In the place of the compiled buckets: the keys of every bucket, and the buckets of every key."""

    def __init__(self, keys):
        super().__init__()
        self.keys = keys
        self.keys_of, self.buckets_of = collections.defaultdict(set), collections.defaultdict(set)

    def add(self, bucket):
        (key,) = self.keys
        self.keys.clear()
        named = (bucket[0].__name__, *bucket[1:])
        self.keys_of[named].add(key)
        self.buckets_of[key].add(named)
        super().add(bucket)


@pytest.fixture
def buckets(monkeypatch):
    keys = []
    for name in KERNELS:
        monkeypatch.setattr(kernels, name, Recorder(getattr(kernels, name), keys))
    recorded = Buckets(keys)
    monkeypatch.setattr(runtime, "_compiled", recorded)
    yield recorded
    assert all(len(each) == 1 for each in recorded.keys_of.values()), "Triton would compile in a known bucket"
    assert all(len(each) == 1 for each in recorded.buckets_of.values()), "a new bucket would compile nothing"


def tokens(draw, shape, dtype):
    layout = draw.choice(["contiguous", "offset", "expanded", "strided"])
    if layout == "offset":
        offset = draw.choice([1, 2, 4, 8])
        return torch.zeros(torch.Size(shape).numel() + offset, dtype=dtype)[offset:].view(shape)
    if layout == "expanded":
        return torch.zeros(shape[-1], dtype=dtype).expand(shape)
    if layout == "strided":
        return torch.zeros(*shape[:-1], shape[-1] + draw.choice([1, 8, 16]), dtype=dtype)[..., : shape[-1]]
    return torch.zeros(shape, dtype=dtype)


def int32(draw, count):
    return torch.zeros(count + 1, dtype=torch.int32)[draw.choice([0, 1]) :][:count]


def test_a_bucket_is_what_is_compiled(buckets, force, monkeypatch):
    draw = random.Random(0)
    for _ in range(1_000):
        count, depth = draw.choice([1, 2, 15, 16, 17, 64, 65, 256]), draw.choice([1, 7, 8, 16, 33, 64, 80, 128])
        items = draw.choice([(), (1,), (2,), (16,)])
        x = tokens(draw, (*items, count, depth), draw.choice([torch.float16, torch.bfloat16, torch.float32]))
        weight = tokens(draw, (*items, count), draw.choice([torch.bfloat16, torch.float32, torch.float64]))
        method, overload, lam = (
            draw.choice(METHODS),
            draw.choice(["default", "scores"]),
            draw.choice([0.0, 0.3, 1.0]),
        )
        limit = draw.choice([2**30, 8 * count**2, 1])
        force(workspace_limit=limit, form=draw.choice([None, "materialised", "lazy_greedy"]))
        multiprocessors = draw.choice([1, 132])
        monkeypatch.setattr(runtime, "multiprocessors", lambda device, number=multiprocessors: number)
        if items or draw.random() < 0.5:
            k = draw.choice([1, min(count, 16), count])
            operators.operator(method, overload)(*arguments(method, x, weight, k, lam))
        else:
            segments = draw.choice([1, 2, 16, 129]) + 1
            sizes = draw.choice([1, 16, 17]), draw.choice([1, 16, count, 2**31 + 5])
            sums = int32(draw, segments), int32(draw, segments)
            operators.operator(f"{method}_varlen", overload)(*varlen_arguments(method, x, weight, *sums, *sizes, lam))
        if not items:
            y = tokens(draw, (draw.choice([1, 16, 65]), depth), x.dtype)
            of_x, of_y = (tokens(draw, (len(each),), torch.float32) for each in (x, y))
            rows.similarities(x, of_x, y, of_y)
            rows.reciprocal_norms(y)
    assert len(buckets.keys_of) > 100
    assert {bucket[0] for bucket in buckets.keys_of} == set(KERNELS)


def test_wide_strides_are_a_bucket_of_their_own(buckets):
    for stride in (64, 2**31 - 8, 2**31, 2**34, 2**35 + 8):
        for shape, strides in (((5, 64), (stride, 1)), ((2, 5, 64), (stride, 64, 1))):
            operators.operator("divprune", "default")(torch.empty_strided(shape, strides, device="meta"), 2)
    similarity = {bucket for bucket in buckets.keys_of if bucket[0] == "similarity_kernel"}
    assert len(similarity) > 2


@pytest.mark.parametrize("method", METHODS)
def test_the_number_of_segments_makes_no_bucket(buckets, force, method):
    x, weight = torch.zeros(64, 64, dtype=torch.bfloat16), torch.zeros(64)
    force(form="lazy_greedy")
    for segments in (1, 4_097):
        sums = torch.zeros(segments + 1, dtype=torch.int32)
        operators.operator(f"{method}_varlen", "default")(*varlen_arguments(method, x, weight, sums, sums, 9, 64))
    assert len({bucket[0] for bucket in buckets.keys_of}) == len(buckets.keys_of)
