"""Inputs that selections are tested on, and the judgement of a result."""

import contextlib
import math

import torch

import python_ref
from tokenprune_kernels import methods
from tokenprune_kernels.verify import verify_trace

METHODS = tuple(methods.METHODS)
WITH_INITIAL = tuple(name for name, method in methods.METHODS.items() if method.has_initial)
DTYPES = (torch.float16, torch.bfloat16, torch.float32)
WEIGHT_DTYPES = (*DTYPES, torch.float64)
LAYOUTS = ("contiguous", "transposed", "odd offset", "strided", "expanded")


class _Operators:
    """`torch.ops.tokenprune` on the device under test: tensors go there as they are laid out, results come back."""

    device = "cpu"

    def __getattr__(self, name):
        packet = getattr(torch.ops.tokenprune, name)
        call = self._on_device(packet)
        call.scores = self._on_device(packet.scores)
        return call

    def _on_device(self, operator):
        def call(*arguments):
            result = operator(*(moved(argument, self.device) for argument in arguments))
            return result.cpu() if isinstance(result, torch.Tensor) else tuple(tensor.cpu() for tensor in result)

        return call


ops = _Operators()


@contextlib.contextmanager
def on_device(device):
    """Has `ops` run on another device."""
    before, _Operators.device = _Operators.device, device
    try:
        yield
    finally:
        _Operators.device = before


def moved(value, device):
    if device == "cpu" or not isinstance(value, torch.Tensor):
        return value
    storage = torch.empty(0, dtype=value.dtype).set_(value.detach().untyped_storage())
    return storage.to(device).as_strided(value.shape, value.stride(), value.storage_offset())


def generator(seed):
    return torch.Generator().manual_seed(seed)


def gaussian_tokens(*shape, dtype=torch.float32, seed=0):
    return torch.randn(*shape, generator=generator(seed)).to(dtype)


def clustered_tokens(count, depth, clusters, dtype=torch.float32, seed=0):
    centres = torch.randn(clusters, depth, generator=generator(seed))
    members = torch.randint(clusters, (count,), generator=generator(seed + 1))
    return (centres[members] + 0.3 * torch.randn(count, depth, generator=generator(seed + 2))).to(dtype)


def exact_tokens(*shape, non_zeros, dtype=torch.float32, seed=0):
    """Entries in {-1, 0, 1}, `non_zeros` (a power of 4) in each row: every similarity is exact and many are tied."""
    depth = shape[-1]
    assert math.log(non_zeros, 4).is_integer()
    assert math.log2(depth).is_integer()
    order = torch.rand(*shape, generator=generator(seed)).argsort(dim=-1)
    signs = torch.randint(2, shape, generator=generator(seed + 1)) * 2 - 1
    return torch.where(order < non_zeros, signs, 0).to(dtype)


def exact_tokens_for(method, *shape, non_zeros, **given):
    """What is exact for the method: a DPP divides and takes roots, unless rows are equal, opposite or orthogonal."""
    return exact_tokens(*shape, non_zeros=1 if method == "dpp" else non_zeros, **given)


def exact_weight(method, *shape, seed=0):
    """Weights whose relevance is a quarter, or a multiple of it up to 1: exact at lam = 1/2, with many ties.

    IDPruner's 1e-6 vanishes beside a range of 2^42.
    """
    quarters = torch.randint(5, shape, generator=generator(seed)).float()
    quarters[..., :2] = torch.tensor([0.0, 4.0])
    return quarters * 2.0**40 if method == "idpruner" else quarters / 4


def random_weight(*shape, dtype=torch.float32, seed=0):
    return torch.rand(*shape, generator=generator(seed)).to(dtype)


def with_layout(x, layout):
    """A tensor equal to x, laid out another way; "expanded" puts a batch dimension of 3 in front."""
    if layout == "contiguous":
        return x.contiguous()
    if layout == "transposed":
        return x.mT.contiguous().mT
    if layout == "odd offset":
        padded = torch.full((*x.shape[:-2], x.shape[-2] + 1, x.shape[-1] + 3), torch.nan, dtype=x.dtype)
        padded[..., 1:, 1:-2] = x
        return padded[..., 1:, 1:-2]
    if layout == "strided":
        return torch.stack([x, torch.full_like(x, torch.nan)], dim=-1).flatten(-2)[..., ::2]
    return x.expand(3, *x.shape)


def arguments(method, x, weight, k, lam=0.5, initial=None):
    """The arguments of an operator of the given method."""
    return methods.METHODS[method].arguments(x, weight, (k,), lam, initial)


def oracle(method, x, weight, k, lam=0.5, initial=None):
    return getattr(python_ref, method)(*arguments(method, x, weight, k, lam, initial))


def judged(method, x, weight, k, lam=0.5, initial=None):
    """Runs both overloads and judges them: by replay always, by equality with the oracle where the verdict is decisive.

    Returns the indices and whether they had to be equal.
    """
    indices = getattr(ops, method)(*arguments(method, x, weight, k, lam, initial))
    again, scores = getattr(ops, method).scores(*arguments(method, x, weight, k, lam, initial))
    assert indices.dtype == torch.int64
    assert scores.dtype == torch.float32
    assert indices.shape == scores.shape == (*x.shape[:-2], k)
    assert torch.equal(indices, again)
    verdict = verify_trace(method, x, indices, None if method == "divprune" else weight, lam, scores, initial=initial)
    assert verdict, verdict
    if verdict.decisive:
        assert torch.equal(indices, oracle(method, x, weight, k, lam, initial)[0])
    return indices, verdict.decisive
