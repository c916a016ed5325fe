"""The materialised form of DivPrune, MMR and IDPruner: all similarities, then the plain greedy loop over their rows."""

from __future__ import annotations

from typing import Any

import torch
import triton
from torch import Tensor

from .. import configs, kernels, runtime
from .base import ROW_ALIGNMENT, Batch, Form, ceil_div, padded, tile_constants

_SIMILARITY_PROGRAMS = 4  # per multiprocessor, which may be more than are resident


def similarity_constants(config: configs.SimilarityConfig, d: int, method: str) -> dict[str, Any]:
    """The compile-time constants of the similarity kernel that depend on neither layout nor batch."""
    return {"WITH_ROW_MAXIMUM": method == "divprune"} | tile_constants(config, d)


def greedy_constants(
    block_n: int, similarity: configs.SimilarityConfig, method: str, with_scores: bool
) -> dict[str, Any]:
    """The compile-time constants of the greedy kernel that depend on neither layout nor batch."""
    return {
        "METHOD": method,
        "WITH_SCORES": with_scores,
        "TILE_N": similarity.block_n,
        "BLOCK_N": block_n,
        "WARPS": configs.greedy_config(block_n).num_warps,
    }


class MaterialisedForm(Form):
    """`similarity_kernel`, then `greedy_kernel`. Memory grows with the square of the rows."""

    name = "materialised"
    triangular = True

    @staticmethod
    def row_bytes(longest: int) -> int:
        """A row of similarities for each row."""
        return 4 * padded(longest) * ROW_ALIGNMENT**2

    @classmethod
    def item_bytes(cls, element_size: int, count: int, k: int) -> int:
        """All similarities of an item."""
        return padded(count) * cls.row_bytes(count)

    @staticmethod
    def kernel_names(method: str) -> tuple[str, ...]:
        """The same for each method."""
        return "similarity_kernel", "greedy_kernel"

    def __init__(self, batch: Batch, config: configs.SimilarityConfig | None = None) -> None:
        super().__init__(batch)
        x = batch.tokens.x
        self.config = config or configs.similarity_config(
            x.element_size(), batch.longest, x.shape[-1], self.architecture, batch.tokens.is_aligned
        )
        self.block_n = self.config.block_n
        self.blocks = ceil_div(batch.longest, self.block_n)
        rows = batch.capacity * ROW_ALIGNMENT
        self.similarity = self.workspace(rows, padded(batch.longest) * ROW_ALIGNMENT)
        self.row_maximum = self.workspace(self.blocks, rows) if batch.method == "divprune" else None

    def select(self, sizes: dict[str, Any], k: int, plan: Tensor | None) -> None:
        """The similarity pass and the greedy loop."""
        self._launch_similarity(sizes, plan)
        self._launch_greedy(sizes, k, plan)

    def _launch_similarity(self, sizes: dict[str, Any], plan: Tensor | None) -> None:
        batch, x = self.batch, self.batch.tokens.x
        tiles = sizes["segments"] * (self.blocks * (self.blocks + 1) // 2)
        splits = batch.tokens.splits(tiles)
        split_tiles = tiles if splits > 1 else 0
        programs = min(tiles * splits, _SIMILARITY_PROGRAMS * runtime.multiprocessors(x.device))
        self.launch(
            kernels.similarity_kernel,
            programs,
            {
                "x": x,
                "plan": plan,
                "reciprocal_norm": self.reciprocal_norm,
                "similarity": self.similarity,
                "row_maximum": self.row_maximum,
                "partial_sums": self.workspace(max(1, split_tiles * splits * self.block_n**2)),
                "arrival_counters": self.workspace(
                    max(1, split_tiles), dtype=torch.int32, fill=0 if split_tiles else None
                ),
            },
            sizes
            | batch.tokens.sizes()
            | {
                "programs": programs,
                "splits": splits,
                "capacity": batch.capacity,
                "stride_sn": padded(batch.longest),
            },
            {"VARLEN": plan is not None, "ALIGNMENT": batch.tokens.alignment}
            | similarity_constants(self.config, x.shape[-1], batch.method),
            num_warps=self.config.num_warps,
            num_stages=self.config.num_stages,
        )

    def _launch_greedy(self, sizes: dict[str, Any], k: int, plan: Tensor | None) -> None:
        batch = self.batch
        block_n = max(16, triton.next_power_of_2(batch.longest))
        self.launch(
            kernels.greedy_kernel,
            sizes["segments"],
            {
                "similarity": self.similarity,
                "row_maximum": self.row_maximum,
                "reciprocal_norm": self.reciprocal_norm,
                "relevance": self.relevance,
                "plan": plan,
                "indices": batch.out.indices,
                "scores": batch.out.scores,
            },
            {"first_segment": sizes["first_segment"], "count": sizes["count"]}
            | {"k": k, "capacity": batch.capacity, "stride_sn": padded(batch.longest)}
            | batch.lam_weights(),
            {"VARLEN": plan is not None}
            | greedy_constants(block_n, self.config, batch.method, batch.out.scores is not None),
            num_warps=configs.greedy_config(block_n).num_warps,
        )
