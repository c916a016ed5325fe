"""What every form has: the batch that it selects from, and the row norms that it starts with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from .. import configs, kernels, recorded_calls, runtime

ROW_ALIGNMENT = kernels.ROW_ALIGNMENT.value

_ALIGNMENT = 8
_CHUNK = kernels.CHUNK.value
_MAX_PROGRAMS = 2**31 - 1  # of a grid


def ceil_div(count: int, size: int) -> int:
    """How many blocks of ``size`` hold ``count``. Triton's own function takes ten times as long."""
    return -(-count // size)


def with_unit_stride(x: Tensor) -> Tensor:
    """The same elements, those of a row next to one another."""
    return x if x.stride(-1) == 1 or x.shape[-1] == 1 else x.contiguous()


def padded(count: int) -> int:
    """The rows or columns of a workspace that hold ``count``, in units of ``ROW_ALIGNMENT``."""
    return ceil_div(count, ROW_ALIGNMENT)


@dataclass(frozen=True)
class Tokens:
    """The tokens, and what the kernels are specialised on about them.

    Attributes:
        x: ``[items, N, D]``, or ``[total rows, D]`` of a ragged batch; its last stride is 1.
        stride_xb: from item to item.
        stride_xn: from row to row.
        alignment: the elements that strides and D are multiples of.
    """

    x: Tensor
    stride_xb: int
    stride_xn: int
    alignment: int

    @classmethod
    def of(cls, x: Tensor, stride_xb: int, stride_xn: int) -> Tokens:
        """Finds out the alignment."""
        aligned = all(size % _ALIGNMENT == 0 for size in (stride_xb, stride_xn, x.shape[-1]))
        return cls(x, stride_xb, stride_xn, _ALIGNMENT if aligned else 1)

    @classmethod
    def of_rows(cls, x: Tensor) -> Tokens:
        """Of rows ``[N, D]`` of any layout."""
        x = with_unit_stride(x)
        return cls.of(x, 0, x.stride(0) if len(x) > 1 else 0)

    @property
    def is_aligned(self) -> bool:
        """Whether rows can be loaded 16 bytes at a time."""
        return self.alignment > 1 and self.x.data_ptr() % 16 == 0

    def splits(self, tiles: int) -> int:
        """How many splits of D a pass over ``tiles`` tiles has."""
        chunks = ceil_div(self.x.shape[-1], _CHUNK)
        return configs.split_k(tiles, chunks, runtime.multiprocessors(self.x.device))

    def sizes(self) -> dict[str, int]:
        """The arguments of a kernel, in units of the alignment."""
        return {
            "d_units": self.x.shape[-1] // self.alignment,
            "stride_xb": self.stride_xb // self.alignment,
            "stride_xn": self.stride_xn // self.alignment,
        }


@dataclass(frozen=True)
class Output:
    """The result that the kernels write.

    Attributes:
        indices: int64 ``[items, k]`` or ``[total_k]``.
        scores: float32 of the same shape, or None if nobody asked.
    """

    indices: Tensor
    scores: Tensor | None

    @classmethod
    def of(
        cls,
        shape: tuple[int, ...],
        device: torch.device,
        with_scores: bool,
        *,
        blank: bool = False,
        recorder: recorded_calls.Recorder | None = None,
    ) -> Output:
        """Not yet written, or blank: the result of no segment at all, -1, and -inf for the scores."""
        made: list[Tensor | None] = [None, None]
        parts = (("indices", torch.int64, -1), ("scores", torch.float32, -torch.inf))
        for place, (name, dtype, fill) in enumerate(parts[: 1 + with_scores]):
            value = fill if blank else None
            made[place] = recorded_calls.allocated(shape, dtype, device, value)
            if recorder is not None:
                recorder.output(name, shape, dtype, value)
        indices, scores = made
        assert indices is not None
        return cls(indices, scores)

    def result(self) -> Any:
        """What an operator returns."""
        return self.indices if self.scores is None else (self.indices, self.scores)


@dataclass(frozen=True)
class Batch:
    """What a form selects from.

    Attributes:
        method: a name in `tokenprune_kernels.methods.METHODS`.
        tokens: of all items.
        weight: relevance or importance of each row, None if the method has none.
        lam: the weight of relevance against diversity.
        out: where the picks go.
        segments: how many segments a slice has at most.
        longest: how many rows a segment has at most.
        capacity: rows of the workspaces, in units of ``ROW_ALIGNMENT``.
        recorder: where allocations and launches are noted, None if the call is not recorded.
    """

    method: str
    tokens: Tokens
    weight: Tensor | None
    lam: float
    out: Output
    segments: int
    longest: int
    capacity: int
    recorder: recorded_calls.Recorder | None = None

    def lam_weights(self) -> dict[str, float]:
        """The two weights of MMR's score."""
        return {"relevance_weight": float(self.lam), "redundancy_weight": 1.0 - self.lam}


def tile_constants(config: configs.SimilarityConfig | configs.CooperativeConfig, d: int) -> dict[str, Any]:
    """The compile-time constants of a kernel that multiplies tiles of rows."""
    return {"EVEN_D": d % config.block_d == 0, "BLOCK_N": config.block_n, "BLOCK_D": config.block_d}


class Form:
    """A way to run the methods: the launches for one slice of a batch, and the workspaces that slices share."""

    name: ClassVar[str]
    triangular: ClassVar[bool]
    """Whether a unit of work is a tile, a pair of blocks of ``block_n`` rows, instead of one block."""
    block_n: int

    @staticmethod
    def row_bytes(longest: int) -> int:
        """Bytes of workspace for ``ROW_ALIGNMENT`` rows."""
        raise NotImplementedError

    @classmethod
    def item_bytes(cls, element_size: int, count: int, k: int) -> int:
        """Bytes of workspace for one item of a batch of which k rows are picked."""
        raise NotImplementedError

    @staticmethod
    def kernel_names(method: str) -> tuple[str, ...]:
        """The names of the kernels that a slice launches after the row norms, in order."""
        raise NotImplementedError

    def __init__(self, batch: Batch) -> None:
        x = batch.tokens.x
        self.batch = batch
        self.architecture = runtime.architecture(x.device)
        self.norm_blocks = ceil_div(batch.longest, kernels.NORM_BLOCK_N.value)
        if batch.segments * self.norm_blocks > _MAX_PROGRAMS:
            raise ValueError(
                f"{batch.method}: expected at most {_MAX_PROGRAMS // self.norm_blocks} segments with max_seqlen = "
                f"{batch.longest} on the triton backend, got {batch.segments}"
            )
        rows = batch.capacity * ROW_ALIGNMENT
        self.reciprocal_norm = self.workspace(rows)
        self.relevance = None if batch.weight is None else self.workspace(rows)

    def workspace(self, *shape: int, dtype: torch.dtype = torch.float32, fill: int | None = None) -> Tensor:
        """Allocates a workspace, unwritten if nothing is to fill it."""
        tensor = recorded_calls.allocated(shape, dtype, self.batch.tokens.x.device, fill)
        return tensor if self.batch.recorder is None else self.batch.recorder.workspace(tensor, fill)

    def launch(
        self,
        kernel: Any,
        programs: int,
        tensors: dict[str, Tensor | None],
        sizes: dict[str, Any],
        constants: dict[str, Any],
        **options: int,
    ) -> None:
        """Launches a kernel. The arguments are those of `runtime.launch`."""
        compiled = runtime.launch(kernel, programs, tensors, sizes, constants, **options)
        if self.batch.recorder is not None:
            self.batch.recorder.launch(compiled, kernel, programs, tensors | sizes | constants)

    def launch_cooperatively(
        self,
        config: configs.CooperativeConfig,
        kernel: Any,
        tensors: dict[str, Tensor | None],
        sizes: dict[str, Any],
        constants: dict[str, Any],
    ) -> None:
        """Launches a kernel whose programs wait for one another, as many as the device holds at once."""
        x = self.batch.tokens.x
        while True:
            programs, options = runtime.cooperative_grid(config, x)
            options = {"num_warps": config.num_warps, "num_stages": config.num_stages} | options
            try:
                self.launch(kernel, programs, tensors, sizes | {"programs": programs}, constants, **options)
                return
            except RuntimeError as error:
                # The device has run nothing of a launch that it refuses.
                if not runtime.is_too_large(error) or not runtime.refuse(config, x.device):
                    raise

    def run(self, first_segment: int, segments: int, *, count: int, k: int, plan: Tensor | None) -> None:
        """Selects from a slice of a dense batch, or from a ragged one.

        Args:
            first_segment: the first item of the slice.
            segments: how many items or segments it has.
            count: N of a dense batch, 0 of a ragged one.
            k: of a dense batch, 0 of a ragged one.
            plan: of a ragged batch, None of a dense one.
        """
        batch = self.batch
        slice_sizes = {"first_segment": first_segment, "count": count}
        self.launch(
            kernels.row_norm_kernel,
            segments * self.norm_blocks,
            {
                "x": batch.tokens.x,
                "weight": batch.weight,
                "plan": plan,
                "reciprocal_norm": self.reciprocal_norm,
                "relevance": self.relevance,
            },
            slice_sizes | batch.tokens.sizes() | {"blocks": self.norm_blocks},
            {
                "HAS_WEIGHT": batch.weight is not None,
                "VARLEN": plan is not None,
                "ALIGNMENT": batch.tokens.alignment,
            },
        )
        self.select(slice_sizes | {"segments": segments}, k, plan)

    def select(self, sizes: dict[str, Any], k: int, plan: Tensor | None) -> None:
        """The launches after the row norms."""
        raise NotImplementedError
