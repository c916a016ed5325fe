"""Grids, workspaces and the order of the launches. Nothing here waits for the device."""

from __future__ import annotations

import contextlib
import contextvars
import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import triton
from torch import Tensor

from . import kernels
from .configs import (
    LARGEST_COUNT,
    CandidateConfig,
    SimilarityConfig,
    candidate_config,
    candidate_count,
    candidates_win,
    dpp_config,
    greedy_config,
    parts_of_depth,
    similarity_config,
    workspace_limit,
)

WORKSPACE_LIMIT = workspace_limit()
"""The most bytes of similarities at a time, as ``set_workspace_limit`` sets it.

A batch that needs more is worked through in slices, of one item at least; an item or a ragged batch that needs more is
selected from by candidate blocks.
"""

FORM: contextvars.ContextVar[str | None] = contextvars.ContextVar("form", default=None)
"""``"materialised"`` or ``"candidates"``, whatever the sizes: set while warming up, and by tests."""

CANDIDATE_ROUNDS = 2**31 - 1
"""Set by tests: after so many rounds of candidate blocks, picks are made one at a time."""

CANDIDATE_ROOM: int | None = None
"""Set by tests: the most candidates of a round."""

OPTIONS = {"enable_fp_fusion": False}
"""How every kernel is compiled: without fusion, a score is rounded the same way wherever it is formed."""

GRID_OPTIONS = {"launch_cooperative_grid": True}
"""Kernels whose programs wait for one another start only if there is room for all of them."""

PLAN_OPTIONS = {"num_warps": 8}
"""With fewer, the compiler spills on sm_100."""

_LARGEST_DEPTH = 2**30
_LARGEST_ITEM = 2**30
_MOST_PROGRAMS = 2**31 - 1  # of a grid

_ALIGNMENT = 8
_ROW_ALIGNMENT = kernels.ROW_ALIGNMENT.value
_CHUNK = kernels.CHUNK.value
_BLOCK_S = 128
_ANY_ALIGNMENT = ("weight", "cu_seqlens", "cu_k")  # what kernels.py does not specialise on the alignment of
_OLDEST_ARCHITECTURE = 80
_CHECKED_ARCHITECTURES = (80, 90, 100)
_INTERPRETED_ARCHITECTURE = 90

_INTERPRETED_MULTIPROCESSORS = 2
_SIMILARITY_PROGRAMS = 4  # per multiprocessor, as many as may find room there

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


def dpp(x: Tensor, relevance: Tensor, k: int, *, with_scores: bool) -> Any:
    return _dense("dpp", x, relevance, k, 0.0, with_scores)


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


def dpp_varlen(
    x: Tensor, relevance: Tensor, cu_seqlens: Tensor, cu_k: Tensor, total_k: int, max_seqlen: int, *, with_scores: bool
) -> Any:
    return _varlen("dpp", x, relevance, cu_seqlens, cu_k, total_k, max_seqlen, 0.0, with_scores)


_OPERATORS: dict[str, Callable[..., Any]] = {
    function.__name__: function
    for function in (divprune, mmr, idpruner, dpp, divprune_varlen, mmr_varlen, idpruner_varlen, dpp_varlen)
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

    def parts(self, tiles: int) -> int:
        """Into how many parts D is split for so many tiles."""
        return parts_of_depth(tiles, triton.cdiv(self.x.shape[-1], _CHUNK), _multiprocessors(self.x.device))

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
        form = _form(method, count, _padded(count))
        group = min(items, max(1, WORKSPACE_LIMIT // form.item_bytes(tokens, count)))
        with _on_device(x):
            select = form(
                method, tokens, _contiguous(weight), lam, indices, scores, group, count, group * _padded(count)
            )
            for first in range(0, items, group):
                select.run(first, min(group, items - first), count=count, k=k, plan=None)
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
        tokens = _Tokens.of(x, 0, x.stride(0) if rows > 1 else 0)
        form = _form(method, longest, _needed_rows(segments, rows, longest))
        capacity = _ragged_capacity(form, segments, rows, longest)
        with _on_device(x):
            select = form(method, tokens, _contiguous(weight), lam, indices, scores, segments, longest, capacity)
            plan = torch.empty(segments + 1, kernels.PLAN_COLUMNS.value, dtype=torch.int64, device=x.device)
            _run(
                kernels.plan_kernel,
                1,
                {"cu_seqlens": cu_seqlens.contiguous(), "cu_k": cu_k.contiguous(), "plan": plan},
                {
                    "segments": segments,
                    "rows": rows,
                    "total_k": total_k,
                    "max_seqlen": longest,
                    "capacity": capacity,
                },
                {"UNIT_N": select.block_n, "TRIANGULAR": select.triangular, "BLOCK_S": _BLOCK_S},
                **PLAN_OPTIONS,
            )
            select.run(0, segments, count=0, k=0, plan=plan)
    return indices if scores is None else (indices, scores)


def _needed_rows(segments: int, rows: int, longest: int) -> int:
    """The most workspace rows of segments that do not overlap, in units of ``_ROW_ALIGNMENT``."""
    return min(segments * _padded(longest), rows // _ROW_ALIGNMENT + segments)


def _ragged_capacity(form: type[_Selection], segments: int, rows: int, longest: int) -> int:
    """How many workspace rows a ragged batch gets, in units of ``_ROW_ALIGNMENT``.

    Where it fits the limit, there is room for every segment at its longest: even such as overlap, against the contract,
    are then all right.
    """
    roomy = segments * _padded(longest)
    return roomy if roomy * form.row_bytes(longest) <= WORKSPACE_LIMIT else _needed_rows(segments, rows, longest)


def forms_of(method: str, longest: int) -> list[str]:
    """The forms that selections from items of so many rows may take, by how many of them there are."""
    smallest = _form(method, longest, _padded(longest))
    return ["materialised", "candidates"] if smallest is _Materialised else ["candidates"]


@contextlib.contextmanager
def forced(form: str | None) -> Iterator[None]:
    """Has selections take a form, whatever the sizes."""
    token = FORM.set(form)
    try:
        yield
    finally:
        FORM.reset(token)


def _form(method: str, longest: int, rows: int) -> type[_Selection]:
    """The form of the algorithm for so many workspace rows, in units of ``_ROW_ALIGNMENT``."""
    if method == "dpp":
        return _OnePickATurn
    form = FORM.get()
    if form is not None:
        return {"materialised": _Materialised, "candidates": _CandidateBlocks}[form]
    fits = longest <= LARGEST_COUNT and rows * _Materialised.row_bytes(longest) <= WORKSPACE_LIMIT
    return _CandidateBlocks if not fits or candidates_win(method, longest) else _Materialised


class _Selection:
    """The launches that select from one slice of a batch after another, and the workspaces these share."""

    block_n: int
    """Rows of a unit of work."""
    triangular: bool
    """Whether a unit is a pair of such blocks."""

    @staticmethod
    def row_bytes(longest: int) -> int:
        """Bytes of workspace for ``_ROW_ALIGNMENT`` rows."""
        raise NotImplementedError

    @staticmethod
    def item_bytes(tokens: _Tokens, count: int) -> int:
        """Bytes of workspace for an item of a batch."""
        raise NotImplementedError

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
        self.architecture = _architecture(x.device)
        self.norm_blocks = triton.cdiv(longest, kernels.NORM_BLOCK_N.value)
        if segments * self.norm_blocks > _MOST_PROGRAMS:
            raise ValueError(
                f"{method}: expected at most {_MOST_PROGRAMS // self.norm_blocks} segments with max_seqlen = {longest} "
                f"on the triton backend, got {segments}"
            )
        rows = capacity * _ROW_ALIGNMENT
        self.reciprocal_norm = x.new_empty(rows, dtype=torch.float32)
        self.importance = None if weight is None else x.new_empty(rows, dtype=torch.float32)

    def run(self, first_segment: int, segments: int, *, count: int, k: int, plan: Tensor | None) -> None:
        """Selects from a slice of a batch, or from a ragged one."""
        slice_sizes = {"first_segment": first_segment, "count": count}
        _run(
            kernels.row_norm_kernel,
            segments * self.norm_blocks,
            {
                "x": self.tokens.x,
                "weight": self.weight,
                "plan": plan,
                "reciprocal_norm": self.reciprocal_norm,
                "importance": self.importance,
            },
            slice_sizes | self.tokens.arguments() | {"blocks": self.norm_blocks},
            {
                "HAS_WEIGHT": self.weight is not None,
                "VARLEN": plan is not None,
                "ALIGNMENT": self.tokens.alignment,
            },
        )
        self.select(slice_sizes | {"segments": segments}, k, plan)

    def select(self, sizes: dict[str, Any], k: int, plan: Tensor | None) -> None:
        """The launches behind the row norms."""
        raise NotImplementedError

    def weights(self) -> dict[str, float]:
        return {"relevance_weight": float(self.lam), "redundancy_weight": 1.0 - self.lam}


class _Materialised(_Selection):
    """All similarities, then the greedy loop over their rows."""

    triangular = True

    @staticmethod
    def row_bytes(longest: int) -> int:
        return 4 * _padded(longest) * _ROW_ALIGNMENT**2

    @staticmethod
    def item_bytes(tokens: _Tokens, count: int) -> int:
        return _padded(count) * _Materialised.row_bytes(count)

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        x = self.tokens.x
        self.config = similarity_config(
            x.element_size(), self.longest, x.shape[-1], self.architecture, self.tokens.whole_words
        )
        self.block_n = self.config.block_n
        self.tiles = triton.cdiv(self.longest, self.block_n)
        rows = self.capacity * _ROW_ALIGNMENT
        self.similarity = x.new_empty(rows, _padded(self.longest) * _ROW_ALIGNMENT, dtype=torch.float32)
        self.row_maximum = x.new_empty(self.tiles, rows, dtype=torch.float32) if self.method == "divprune" else None

    def select(self, sizes: dict[str, Any], k: int, plan: Tensor | None) -> None:
        x, varlen = self.tokens.x, {"VARLEN": plan is not None}
        tiles = sizes["segments"] * (self.tiles * (self.tiles + 1) // 2)
        parts = self.tokens.parts(tiles)
        split = tiles if parts > 1 else 0
        programs = min(tiles * parts, _SIMILARITY_PROGRAMS * _multiprocessors(x.device))
        _run(
            kernels.similarity_kernel,
            programs,
            {
                "x": x,
                "plan": plan,
                "reciprocal_norm": self.reciprocal_norm,
                "similarity": self.similarity,
                "row_maximum": self.row_maximum,
                "partials": x.new_empty(max(1, split * parts * self.block_n**2), dtype=torch.float32),
                "tickets": x.new_zeros(max(1, split), dtype=torch.int32),
            },
            sizes
            | self.tokens.arguments()
            | {
                "programs": programs,
                "parts": parts,
                "capacity": self.capacity,
                "stride_sn": _padded(self.longest),
            },
            varlen | {"ALIGNMENT": self.tokens.alignment} | similarity_constants(self.config, x.shape[-1], self.method),
            num_warps=self.config.num_warps,
            num_stages=self.config.num_stages,
        )
        block_n = max(16, triton.next_power_of_2(self.longest))
        greedy = greedy_config(block_n)
        _run(
            kernels.greedy_kernel,
            sizes["segments"],
            {
                "similarity": self.similarity,
                "row_maximum": self.row_maximum,
                "reciprocal_norm": self.reciprocal_norm,
                "importance": self.importance,
                "plan": plan,
                "indices": self.indices,
                "scores": self.scores,
            },
            {"first_segment": sizes["first_segment"], "count": sizes["count"]}
            | {"k": k, "capacity": self.capacity, "stride_sn": _padded(self.longest)}
            | self.weights(),
            varlen | greedy_constants(block_n, self.config, self.method, self.scores is not None),
            num_warps=greedy.num_warps,
        )


class _CandidateBlocks(_Selection):
    """The first pick, then rounds of candidate blocks; memory linear in N."""

    triangular = False

    @staticmethod
    def row_bytes(longest: int) -> int:
        return 3 * 4 * _ROW_ALIGNMENT

    @staticmethod
    def item_bytes(tokens: _Tokens, count: int) -> int:
        candidates = candidate_count(tokens.x.element_size(), count)
        return 4 * candidates**2 + _padded(count) * _CandidateBlocks.row_bytes(count)

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        x, segments = self.tokens.x, arguments[6]
        self.config = candidate_config(x.element_size(), self.architecture, self.tokens.whole_words)
        self.block_n = self.config.block_n
        self.candidates = candidate_count(x.element_size(), self.longest)
        # Of very many segments, each is given fewer candidates; what is compiled stays the same.
        self.room = self.candidates
        while self.room > self.block_n and 4 * segments * self.room**2 > WORKSPACE_LIMIT:
            self.room //= 2
        self.keys = x.new_empty(self.capacity * _ROW_ALIGNMENT, dtype=torch.int32)
        self.chosen = x.new_empty(segments, self.candidates, dtype=torch.int32)
        # Whole rows of candidates are loaded, the last ones from beyond the room.
        self.gram = x.new_empty(segments * self.room**2 + self.candidates, dtype=torch.float32)
        self.state = x.new_empty(segments + 1, kernels.STATE_COLUMNS.value, dtype=torch.int32)

    def select(self, sizes: dict[str, Any], k: int, plan: Tensor | None) -> None:
        x, segments = self.tokens.x, sizes["segments"]
        self.state.zero_()
        programs, resident = _grid_that_waits(self.config, x)
        picks = {"plan": plan, "state": self.state, "indices": self.indices, "scores": self.scores}
        constants = {"WITH_SCORES": self.scores is not None, "VARLEN": plan is not None}
        tiles = candidate_constants(self.config, x.shape[-1]) | {"ALIGNMENT": self.tokens.alignment}
        tiles |= {"CANDIDATE_N": self.candidates}
        rows = {"x": x, "reciprocal_norm": self.reciprocal_norm, "keys": self.keys, "chosen": self.chosen}
        sizes |= {"k": k}
        room = self.room if CANDIDATE_ROOM is None else min(self.room, CANDIDATE_ROOM)
        if self.method == "divprune":
            _run(
                kernels.outlier_kernel,
                programs,
                rows | picks | {"outlier_keys": x.new_empty(segments, self.candidates, dtype=torch.int32)},
                sizes | self.tokens.arguments() | {"programs": programs, "room": room},
                constants | tiles,
                num_warps=self.config.num_warps,
                num_stages=self.config.num_stages,
                **resident,
            )
        else:
            _run(
                kernels.first_pick_kernel,
                segments,
                {"reciprocal_norm": self.reciprocal_norm, "importance": self.importance} | picks,
                sizes,
                constants | {"METHOD": self.method},
            )
        gram_blocks = self.room // self.block_n
        row_units = segments * triton.cdiv(self.longest, self.block_n)
        tile_units = segments * (gram_blocks * (gram_blocks + 1) // 2)
        row_parts, tile_parts = (self.tokens.parts(units) for units in (row_units, tile_units))
        split_rows, split_tiles = row_units if row_parts > 1 else 0, tile_units if tile_parts > 1 else 0
        tickets = max(split_rows, split_tiles)
        partials = max(split_rows * row_parts * kernels.SPLIT_BLOCKS.value, split_tiles * tile_parts)
        _run(
            kernels.candidate_kernel,
            programs,
            rows
            | picks
            | {
                "importance": self.importance,
                "gram": self.gram,
                "partials": x.new_empty(max(1, partials * self.block_n**2), dtype=torch.float32),
                "tickets": x.new_zeros(max(1, tickets), dtype=torch.int32),
            },
            sizes
            | self.tokens.arguments()
            | self.weights()
            | {"programs": programs, "room": room, "rounds": CANDIDATE_ROUNDS, "gram_blocks": gram_blocks}
            | {"row_parts": row_parts, "tile_parts": tile_parts},
            constants | tiles | {"METHOD": self.method, "WARPS": self.config.num_warps},
            num_warps=self.config.num_warps,
            num_stages=self.config.num_stages,
            **resident,
        )


class _OnePickATurn(_Selection):
    """The DPP: all rows take in a pick before the next is made.

    Memory is that of the rows times the most that an item keeps; of a ragged batch, that is ``total_k`` at most, and
    ``max_seqlen``.
    """

    triangular = False

    @staticmethod
    def row_bytes(longest: int) -> int:
        """Bytes of workspace for ``_ROW_ALIGNMENT`` rows, if all of them are kept."""
        return _Materialised.row_bytes(longest)

    @staticmethod
    def item_bytes(tokens: _Tokens, count: int) -> int:
        return _Materialised.item_bytes(tokens, count)

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.config = dpp_config(self.tokens.x.element_size())
        self.block_n = self.config.block_n

    def select(self, sizes: dict[str, Any], k: int, plan: Tensor | None) -> None:
        x, segments = self.tokens.x, sizes["segments"]
        most_kept = k if plan is None else min(self.longest, self.indices.shape[0])
        rows = self.capacity * _ROW_ALIGNMENT
        programs, resident = _grid_that_waits(self.config, x)
        lowest = torch.iinfo(torch.int64).min, torch.iinfo(torch.int32).min
        _run(
            kernels.dpp_kernel,
            programs,
            {
                "x": x,
                "plan": plan,
                "reciprocal_norm": self.reciprocal_norm,
                "importance": self.importance,
                "gains": x.new_empty(rows, dtype=torch.float32),
                "factor": x.new_empty(most_kept, rows, dtype=torch.float32),
                "ballots": x.new_full((segments, most_kept), lowest[0], dtype=torch.int64),
                "relevance_keys": x.new_full((segments,), lowest[1], dtype=torch.int32),
                "arrivals": x.new_zeros(1, dtype=torch.int32),
                "indices": self.indices,
                "scores": self.scores,
            },
            sizes | self.tokens.arguments() | {"k": k, "programs": programs, "most_kept": most_kept, "stride_f": rows},
            {
                "WITH_SCORES": self.scores is not None,
                "VARLEN": plan is not None,
                "ALIGNMENT": self.tokens.alignment,
            }
            | candidate_constants(self.config, x.shape[-1]),
            num_warps=self.config.num_warps,
            num_stages=self.config.num_stages,
            **resident,
        )


def similarity_constants(config: SimilarityConfig, depth: int, method: str) -> dict[str, Any]:
    """The compile-time arguments of the similarity kernel that depend on neither layout nor batch."""
    return {
        "WITH_ROW_MAXIMUM": method == "divprune",
        "EVEN_D": depth % config.block_d == 0,
        "BLOCK_N": config.block_n,
        "BLOCK_D": config.block_d,
    }


def candidate_constants(config: CandidateConfig, depth: int) -> dict[str, Any]:
    """The compile-time arguments of the outlier and candidate kernels that depend on neither layout nor batch."""
    return {"EVEN_D": depth % config.block_d == 0, "BLOCK_N": config.block_n, "BLOCK_D": config.block_d}


def greedy_constants(block_n: int, similarity: SimilarityConfig, method: str, with_scores: bool) -> dict[str, Any]:
    """The compile-time arguments of the greedy kernel that depend on neither layout nor batch."""
    return {
        "METHOD": method,
        "WITH_SCORES": with_scores,
        "TILE_N": similarity.block_n,
        "BLOCK_N": block_n,
        "WARPS": greedy_config(block_n).num_warps,
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


def _padded(count: int) -> int:
    """Rows or columns of a workspace, in units of ``_ROW_ALIGNMENT``."""
    return triton.cdiv(count, _ROW_ALIGNMENT)


def _check_sizes(name: str, argument: str, count: int, depth: int) -> None:
    for what, size, largest in ((argument, count, _LARGEST_ITEM), ("D", depth, _LARGEST_DEPTH)):
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


def _grid_that_waits(config: CandidateConfig, x: Tensor) -> tuple[int, dict[str, Any]]:
    """How many programs that wait for one another are launched, and the options with which they are."""
    # The interpreter's programs run one after another: a second one would never arrive.
    return (config.programs * _multiprocessors(x.device), GRID_OPTIONS) if x.is_cuda else (1, {})


@functools.cache
def _multiprocessors(device: torch.device) -> int:
    if device.type != "cuda":
        return _INTERPRETED_MULTIPROCESSORS
    return torch.cuda.get_device_properties(device).multi_processor_count


def _on_device(x: Tensor) -> contextlib.AbstractContextManager[Any]:
    """Triton launches on the current device, which need not be that of the tensor."""
    return torch.cuda.device(x.device) if x.is_cuda else contextlib.nullcontext()
