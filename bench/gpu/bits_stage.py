"""Bits: the two assumptions that only a GPU can show, over many shapes and repetitions.

Tiles of the same instruction, and a tile and its transpose, round alike: so the forms give the same bits. The grid
barrier holds: so a kernel with a cooperative launch gives the same bits each time.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import os
from collections.abc import Callable, Iterator
from typing import Any

from bench.gpu.contact_stage import run_checks
from bench.gpu.findings import Findings
from bench.gpu.process import WrongResultError

STAGE = "bits"
EACH_SECONDS = 45.0
"""A check compiles up to ten kernels. That takes most of the stage, so that many run side by side."""

SIDE_BY_SIDE = 14
REPETITIONS = 1_000
DEPTHS = (64, 1_024, 2_048, 2_080, 4_096, 1_500)
COUNTS = (65, 300, 576, 700, 1_537)


def run(findings: Findings, deadline: float, device: str) -> None:
    """Runs all checks that are not settled."""
    beside = max(1, min(SIDE_BY_SIDE, (os.cpu_count() or 1) - 1))
    run_checks(findings, STAGE, checks(device), deadline, EACH_SECONDS, side_by_side=beside)


def checks(device: str) -> dict[str, Callable[[], Any]]:
    """The checks, by name, those of the barrier first; in the interpreter on few rows only."""
    import torch

    from bench.gpu import probes

    cuda = device == "cuda"
    counts, depths, repetitions = (COUNTS, DEPTHS, REPETITIONS) if cuda else ((65,), (64,), 2)
    dtypes = (torch.bfloat16, torch.float16, torch.float32) if cuda else (torch.bfloat16,)
    found: dict[str, Callable[[], Any]] = {
        f"grid barrier, {10 * repetitions:,} rounds": functools.partial(probes.hold_barrier, 10 * repetitions, device)
    }
    for method in ("divprune", "mmr", "dpp"):
        found[f"{repetitions:,} repetitions, {method}"] = functools.partial(repeat, method, repetitions, device)
    for dtype in dtypes:
        for depth in depths:
            found[f"tiles, D = {depth:,}, {_name(dtype)}"] = functools.partial(
                compare_tiles, dtype, depth, counts[1] if cuda else 65, device
            )
        for method, count in itertools.product(("divprune", "mmr"), counts):
            found[f"forms, {method}, N = {count:,}, {_name(dtype)}"] = functools.partial(
                compare_forms, method, dtype, count, depths, device
            )
    return found


def _name(dtype: Any) -> str:
    return str(dtype).removeprefix("torch.")


def compare_tiles(dtype: Any, depth: int, count: int, device: str) -> dict[str, Any]:
    """The similarities of all pairs in every configuration that fits, of rows in another order, and transposed.

    Raises:
        WrongResultError: their bits differ.
    """
    import torch

    x = torch.randn(count, depth, generator=torch.Generator().manual_seed(0)).to(dtype).to(device)
    order = torch.randperm(count, generator=torch.Generator().manual_seed(1)).to(device)
    expected, compared = None, 0
    for config in configurations(dtype, depth):
        bits = similarities(x, config)
        expected = bits if expected is None else expected
        for what, mine, theirs in (
            ("another configuration", bits, expected),
            ("the transpose", bits.mT, bits),
            ("another order of rows", similarities(x[order], config), bits[order][:, order]),
        ):
            if not torch.equal(mine, theirs):
                raise WrongResultError(f"{differing(mine, theirs)} in {what}, {named(config)}")
            compared += 1
    return {"compared": compared}


def differing(mine: Any, theirs: Any) -> str:
    """How many of two tensors' values differ, where the first ones are, and what their bits are."""
    places = (mine != theirs).nonzero()
    first = tuple(places[0].tolist())
    return f"{len(places)} of {mine.numel()} differ, first at {first}: {int(mine[first]):#x}, {int(theirs[first]):#x}"


def configurations(dtype: Any, depth: int) -> Iterator[Any]:
    """The rows of the similarity table that the device can run, and each with another step along D."""
    import torch

    from tokenprune_kernels.backends.triton import configs, runtime

    cuda = torch.cuda.is_available()
    device = torch.device("cuda", torch.cuda.current_device()) if cuda else torch.device("cpu")
    for config in configs.SIMILARITY:
        fits = dtype.itemsize in config.element_sizes and config.oldest_architecture <= runtime.architecture(device)
        if fits and (depth % 8 == 0 or not config.needs_alignment):
            yield config
            if depth % 8 == 0 and config.block_d > 32:
                yield dataclasses.replace(config, block_d=32)


def named(config: Any) -> str:
    """A configuration in short."""
    return f"{config.block_n} x {config.block_n} x {config.block_d}, {config.num_warps} warps"


def similarities(x: Any, config: Any) -> Any:
    """The bits of the similarities of all rows, int32 ``[N, N]``, by the materialised form in a configuration."""
    import torch

    from tokenprune_kernels.backends.triton.forms import Batch, MaterialisedForm, Output, Tokens, padded

    count = len(x)
    tokens = Tokens.of(x[None], 0, x.stride(0))
    out = Output.of((1, 1), x.device, with_scores=False)
    form = MaterialisedForm(Batch("divprune", tokens, None, 0.0, out, 1, count, padded(count)), config)
    form.run(0, 1, count=count, k=1, plan=None)
    return form.similarity[:count, :count].view(torch.int32)


def compare_forms(method: str, dtype: Any, count: int, depths: tuple[int, ...], device: str) -> dict[str, Any]:
    """Indices and scores in both forms, in each depth; up to 300 rows are picked.

    Raises:
        WrongResultError: their bits differ.
    """
    import torch

    from tokenprune_kernels import use_backend
    from tokenprune_kernels.backends.triton import runtime
    from tokenprune_kernels.methods import METHODS

    compared = 0
    for depth in depths:
        generator = torch.Generator().manual_seed(count + depth)
        x = torch.randn(count, depth, generator=generator).to(dtype).to(device)
        x[::50] = x[0].clone()
        weight = torch.rand(count, generator=generator).to(device)
        select = getattr(torch.ops.tokenprune, method).scores
        k = min(count, 300) if device == "cuda" else 9
        results = []
        for settings in (
            {"form": "materialised"},
            {"form": "lazy_greedy"},
            {"form": "lazy_greedy", "max_candidates": 40},
        ):
            with use_backend("triton"), runtime.settings(**settings):
                results.append(select(*METHODS[method].arguments(x, weight, (k,), 0.5)))
        for result in results[1:]:
            for what, mine, theirs in zip(("indices", "scores"), result, results[0], strict=True):
                if what == "scores":
                    mine, theirs = mine.view(torch.int32), theirs.view(torch.int32)
                if not torch.equal(mine, theirs):
                    raise WrongResultError(f"D = {depth}, k = {k}: {what}: {differing(mine, theirs)}")
                compared += 1
    return {"compared": compared}


def repeat(method: str, repetitions: int, device: str) -> dict[str, Any]:
    """The lazy greedy form or the DPP, again and again on the same tokens.

    Raises:
        WrongResultError: a result differs from the first one.
    """
    import torch

    from tokenprune_kernels import use_backend
    from tokenprune_kernels.backends.triton import runtime
    from tokenprune_kernels.methods import METHODS

    count, depth, k = (2_000, 256, 200) if device == "cuda" else (40, 16, 4)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(count, depth, generator=generator).bfloat16().to(device)
    given = METHODS[method].arguments(x, torch.rand(count, generator=generator).to(device), (k,), 0.5)
    select = getattr(torch.ops.tokenprune, method).scores
    different = torch.zeros(repetitions, dtype=torch.bool, device=device)
    with use_backend("triton"), runtime.settings(form=None if method == "dpp" else "lazy_greedy"):
        first = select(*given)
        for repetition in range(repetitions):
            again = select(*given)
            for mine, theirs in zip(again, first, strict=True):
                different[repetition] |= (mine.view(torch.int32) != theirs.view(torch.int32)).any()
    wrong = different.nonzero().flatten().tolist()
    if wrong:
        raise WrongResultError(f"{len(wrong)} of {repetitions} repetitions differ from the first call: {wrong[:9]}")
    return {"repetitions": repetitions}
