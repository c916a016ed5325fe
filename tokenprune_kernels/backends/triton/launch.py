"""Grids, workspaces and the order of the launches. Nothing here waits for the device."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import triton
from torch import Tensor

from . import kernels
from .configs import LARGEST_COUNT, GreedyConfig, SimilarityConfig, greedy_config, similarity_config

WORKSPACE_LIMIT = 2**30
"""The most bytes of similarities at a time; a batch that needs more is worked through in slices.

A slice holds one item at least, and a ragged one may end with one segment beyond the limit.
"""

OPTIONS = {"enable_fp_fusion": False}
"""How every kernel is compiled: without fusion, a score is rounded the same way wherever it is formed."""

_LARGEST_DEPTH = 2**30
_MOST_PROGRAMS = 2**31 - 1  # of a grid

_ALIGNMENT = 8
_ROW_ALIGNMENT = kernels.ROW_ALIGNMENT.value
_BLOCK_S = 128
_ANY_ALIGNMENT = ("weight", "cu_seqlens", "cu_k")  # what kernels.py does not specialise on the alignment of
_OLDEST_ARCHITECTURE = 80
_CHECKED_ARCHITECTURES = (80, 90, 100)
_INTERPRETED_ARCHITECTURE = 90

_compiled: set[tuple[Any, ...]] = set()


def operator(name: str, overload: str) -> Callable[..., Any]:
    """The Triton form of an operator, with the arguments of its declaration."""
    return functools.partial(_OPERATORS[name], with_scores=overload == "scores")


def divprune(x: Tensor, k: int, *, with_scores: bool) -> Any:
    return _dense("divprune", x, None, k, 0.0, with_scores)


def mmr(x: Tensor, relevance: Tensor, k: int, lam: float = 0.5, *, with_scores: bool) -> Any:
    return _dense("mmr", x, relevance, k, lam, with_scores)


def idpruner(x: Tensor, importance: Tensor, k: int, lam: float = 0.5, *, with_scores: bool) -> Any:
    return _dense("idpruner", x, importance, k, lam, with_scores)


def divprune_varlen(
    x: Tensor, cu_seqlens: Tensor, cu_k: Tensor, total_k: int, max_seqlen: int, *, with_scores: bool
) -> Any:
    return _varlen("divprune", x, None, cu_seqlens, cu_k, total_k, max_seqlen, 0.0, with_scores)


def mmr_varlen(
    x: Tensor,
    relevance: Tensor,
    cu_seqlens: Tensor,
    cu_k: Tensor,
    total_k: int,
    max_seqlen: int,
    lam: float = 0.5,
    *,
    with_scores: bool,
) -> Any:
    return _varlen("mmr", x, relevance, cu_seqlens, cu_k, total_k, max_seqlen, lam, with_scores)


def idpruner_varlen(
    x: Tensor,
    importance: Tensor,
    cu_seqlens: Tensor,
    cu_k: Tensor,
    total_k: int,
    max_seqlen: int,
    lam: float = 0.5,
    *,
    with_scores: bool,
) -> Any:
    return _varlen("idpruner", x, importance, cu_seqlens, cu_k, total_k, max_seqlen, lam, with_scores)


_OPERATORS: dict[str, Callable[..., Any]] = {
    function.__name__: function for function in (divprune, mmr, idpruner, divprune_varlen, mmr_varlen, idpruner_varlen)
}


@dataclass(frozen=True)
class _Tokens:
    """The tokens of a launch and what the kernels are specialised on about them."""

    x: Tensor
    stride_xb: int
    stride_xn: int
    alignment: int

    @classmethod
    def of(cls, x: Tensor, stride_xb: int, stride_xn: int) -> _Tokens:
        aligned = all(size % _ALIGNMENT == 0 for size in (stride_xb, stride_xn, x.shape[-1]))
        return cls(x, stride_xb, stride_xn, _ALIGNMENT if aligned else 1)

    @property
    def whole_words(self) -> bool:
        """Whether rows can be loaded 16 bytes at a time."""
        return self.alignment > 1 and self.x.data_ptr() % 16 == 0

    def arguments(self) -> dict[str, int]:
        return {
            "depth": self.x.shape[-1] // self.alignment,
            "stride_xb": self.stride_xb // self.alignment,
            "stride_xn": self.stride_xn // self.alignment,
        }


def _dense(method: str, x: Tensor, weight: Tensor | None, k: int, lam: float, with_scores: bool) -> Any:
    x = x.detach()
    leading, count = x.shape[:-2], x.shape[-2]
    _check_sizes(method, "N", count, x.shape[-1])
    indices = torch.empty(*leading, k, dtype=torch.int64, device=x.device)
    scores = torch.empty(*leading, k, dtype=torch.float32, device=x.device) if with_scores else None
    if indices.numel() > 0:
        x = _with_unit_stride(x).reshape(-1, count, x.shape[-1])
        items = x.shape[0]
        tokens = _Tokens.of(x, x.stride(0) if items > 1 else 0, x.stride(1) if count > 1 else 0)
        group = min(items, max(1, _workspace_rows(count) // _padded(count)))
        capacity = group * _padded(count)
        select = _Selection(method, tokens, _contiguous(weight), lam, indices, scores, group, count, capacity)
        with _on_device(x):
            for number, first in enumerate(range(0, items, group)):
                select.run(number, min(group, items - first), group=group, count=count, k=k, plan=None)
    return indices if scores is None else (indices, scores)


def _varlen(
    method: str,
    x: Tensor,
    weight: Tensor | None,
    cu_seqlens: Tensor,
    cu_k: Tensor,
    total_k: int,
    max_seqlen: int,
    lam: float,
    with_scores: bool,
) -> Any:
    x = _with_unit_stride(x.detach())
    rows, segments = x.shape[0], cu_seqlens.shape[0] - 1
    longest = min(max_seqlen, rows)
    _check_sizes(f"{method}_varlen", "max_seqlen", longest, x.shape[-1])
    # What no segment owns, and what belongs to one that breaks the contract.
    indices = torch.full((total_k,), -1, dtype=torch.int64, device=x.device)
    scores = torch.full((total_k,), -torch.inf, dtype=torch.float32, device=x.device) if with_scores else None
    if segments > 0 and longest > 0 and total_k > 0:
        slice_rows, slices = _ragged_slices(segments, rows, longest)
        # A slice's last segment may begin just before the next slice would.
        capacity = min(segments * _padded(longest), slice_rows + _padded(longest))
        tokens = _Tokens.of(x, 0, x.stride(0) if rows > 1 else 0)
        select = _Selection(method, tokens, _contiguous(weight), lam, indices, scores, segments, longest, capacity)
        with _on_device(x):
            plan = torch.empty(segments, kernels.PLAN_COLUMNS.value, dtype=torch.int64, device=x.device)
            _run(
                kernels.plan_kernel,
                1,
                {"cu_seqlens": cu_seqlens.contiguous(), "cu_k": cu_k.contiguous(), "plan": plan},
                {
                    "segments": segments,
                    "rows": rows,
                    "total_k": total_k,
                    "max_seqlen": longest,
                    "slice_rows": slice_rows,
                },
                {"BLOCK_S": _BLOCK_S},
            )
            for number in range(slices):
                select.run(number, segments, group=0, count=0, k=0, plan=plan)
    return indices if scores is None else (indices, scores)


class _Selection:
    """The launches that select from one slice of a batch after another, and the workspaces these share."""

    def __init__(
        self,
        method: str,
        tokens: _Tokens,
        weight: Tensor | None,
        lam: float,
        indices: Tensor,
        scores: Tensor | None,
        segments: int,  # of a slice
        longest: int,
        capacity: int,  # rows of the workspaces, in units of _ROW_ALIGNMENT
    ) -> None:
        x = tokens.x
        self.method = method
        self.tokens = tokens
        self.weight = weight
        self.lam = lam
        self.indices = indices
        self.scores = scores
        self.longest = longest
        self.capacity = capacity
        self.config = similarity_config(
            x.element_size(), longest, x.shape[-1], _architecture(x.device), tokens.whole_words
        )
        self.tiles = triton.cdiv(longest, self.config.block_n)
        if segments * self.tiles**2 > _MOST_PROGRAMS:
            raise ValueError(
                f"{method}: expected at most {_MOST_PROGRAMS // self.tiles**2} segments with max_seqlen = {longest} on "
                f"the triton backend, got {segments}"
            )
        rows = capacity * _ROW_ALIGNMENT
        self.reciprocal_norm = x.new_empty(rows, dtype=torch.float32)
        self.importance = None if weight is None else x.new_empty(rows, dtype=torch.float32)
        self.similarity = x.new_empty(rows, _padded(longest) * _ROW_ALIGNMENT, dtype=torch.float32)
        self.row_maximum = x.new_empty(self.tiles, rows, dtype=torch.float32) if method == "divprune" else None

    def run(self, slice_number: int, segments: int, *, group: int, count: int, k: int, plan: Tensor | None) -> None:
        """Selects from one slice; all ``segments`` of a ragged batch are looked at in each."""
        shared = {"VARLEN": plan is not None}
        aligned = shared | {"ALIGNMENT": self.tokens.alignment}
        sizes = {"slice_number": slice_number, "group": group, "count": count}
        blocks = triton.cdiv(self.longest, kernels.NORM_BLOCK_N.value)
        _run(
            kernels.row_norm_kernel,
            segments * blocks,
            {
                "x": self.tokens.x,
                "weight": self.weight,
                "plan": plan,
                "reciprocal_norm": self.reciprocal_norm,
                "importance": self.importance,
            },
            sizes | self.tokens.arguments() | {"blocks": blocks},
            aligned | {"HAS_WEIGHT": self.weight is not None},
        )
        _run(
            kernels.similarity_kernel,
            segments * self.tiles**2,
            {
                "x": self.tokens.x,
                "plan": plan,
                "reciprocal_norm": self.reciprocal_norm,
                "similarity": self.similarity,
                "row_maximum": self.row_maximum,
            },
            sizes
            | self.tokens.arguments()
            | {"tiles": self.tiles, "capacity": self.capacity, "stride_sn": _padded(self.longest)},
            aligned | similarity_constants(self.config, self.tokens.x.shape[-1], self.method),
            num_warps=self.config.num_warps,
            num_stages=self.config.num_stages,
        )
        block_n = max(16, triton.next_power_of_2(self.longest))
        greedy = greedy_config(block_n, _architecture(self.indices.device))
        _run(
            kernels.greedy_kernel,
            segments,
            {
                "similarity": self.similarity,
                "row_maximum": self.row_maximum,
                "reciprocal_norm": self.reciprocal_norm,
                "importance": self.importance,
                "plan": plan,
                "indices": self.indices,
                "scores": self.scores,
            },
            sizes
            | {
                "k": k,
                "capacity": self.capacity,
                "stride_sn": _padded(self.longest),
                "relevance_weight": float(self.lam),
                "redundancy_weight": 1.0 - self.lam,
            },
            shared | greedy_constants(greedy, block_n, self.config, self.method, self.scores is not None),
            num_warps=greedy.num_warps,
        )


def similarity_constants(config: SimilarityConfig, depth: int, method: str) -> dict[str, Any]:
    """The compile-time arguments of the similarity kernel that depend on neither layout nor batch."""
    return {
        "WITH_ROW_MAXIMUM": method == "divprune",
        "EVEN_D": depth % config.block_d == 0,
        "BLOCK_N": config.block_n,
        "BLOCK_D": config.block_d,
    }


def greedy_constants(
    config: GreedyConfig, block_n: int, similarity: SimilarityConfig, method: str, with_scores: bool
) -> dict[str, Any]:
    """The compile-time arguments of the greedy kernel that depend on neither layout nor batch."""
    return {
        "METHOD": method,
        "WITH_SCORES": with_scores,
        "RELEVANCE_ON_CHIP": config.relevance_on_chip or method == "divprune",
        "TILE_N": similarity.block_n,
        "BLOCK_N": block_n,
    }


def _run(
    kernel: Any,
    programs: int,
    tensors: dict[str, Tensor | None],
    sizes: dict[str, Any],
    constants: dict[str, Any],
    **options: int,
) -> None:
    """Launches a kernel; inside a capture, only if its bucket has been compiled."""
    bucket = (
        kernel,
        *(
            None if t is None else (t.device, t.dtype, name in _ANY_ALIGNMENT or t.data_ptr() % 16 == 0)
            for name, t in tensors.items()
        ),
        *(isinstance(size, int) and size >= 2**31 for size in sizes.values()),
        *constants.items(),
        *options.items(),
    )
    if bucket not in _compiled and torch.cuda.is_available() and torch.cuda.is_current_stream_capturing():
        raise RuntimeError(
            f"{kernel.__name__}: expected a bucket compiled before the capture, got a new one; run the operator "
            "once on this kind of input, or tokenprune_kernels.warmup, before capturing"
        )
    kernel[(programs,)](**tensors, **sizes, **constants, **options, **OPTIONS)
    _compiled.add(bucket)


def _workspace_rows(longest: int) -> int:
    """How many rows of similarities, in units of ``_ROW_ALIGNMENT``, are worked on at a time."""
    return WORKSPACE_LIMIT // (4 * _padded(longest) * _ROW_ALIGNMENT**2)


def _ragged_slices(segments: int, rows: int, longest: int) -> tuple[int, int]:
    """How many workspace rows begin a slice of a ragged batch, in units of ``_ROW_ALIGNMENT``, and how many slices.

    Where it fits the limit, there is room for every segment at its longest: even such as overlap, against the contract,
    are then all right. Otherwise there is room for as many rows as x has, which hold all segments that do not overlap.
    """
    padded, limit = _padded(longest), _workspace_rows(longest)
    if segments * padded <= limit:
        return segments * padded, 1
    needed = min(segments * padded, rows // _ROW_ALIGNMENT + segments)
    slice_rows = min(needed, max(limit - padded, padded))
    return slice_rows, triton.cdiv(needed, slice_rows)


def _padded(count: int) -> int:
    """Rows or columns of a workspace, in units of ``_ROW_ALIGNMENT``."""
    return triton.cdiv(count, _ROW_ALIGNMENT)


def _check_sizes(name: str, argument: str, count: int, depth: int) -> None:
    for what, size, largest in ((argument, count, LARGEST_COUNT), ("D", depth, _LARGEST_DEPTH)):
        if size > largest:
            raise ValueError(f"{name}: expected {what} to be at most {largest} on the triton backend, got {size}")


def _with_unit_stride(x: Tensor) -> Tensor:
    return x if x.stride(-1) == 1 or x.shape[-1] == 1 else x.contiguous()


def _contiguous(weight: Tensor | None) -> Tensor | None:
    return None if weight is None else weight.detach().contiguous()


@functools.cache
def _architecture(device: torch.device) -> int:
    """What to choose configurations for: the device if its machine code has been checked, the oldest otherwise."""
    if device.type != "cuda":
        return _INTERPRETED_ARCHITECTURE
    major, minor = torch.cuda.get_device_capability(device)
    architecture = 10 * major + minor
    if torch.version.hip is None and architecture < _OLDEST_ARCHITECTURE:
        raise RuntimeError(f"triton backend: expected compute capability 8.0 or newer, got {major}.{minor}")
    return architecture if architecture in _CHECKED_ARCHITECTURES else _OLDEST_ARCHITECTURE


def _on_device(x: Tensor) -> contextlib.AbstractContextManager[Any]:
    """Triton launches on the current device, which need not be that of the tensor."""
    return torch.cuda.device(x.device) if x.is_cuda else contextlib.nullcontext()
