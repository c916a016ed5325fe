"""The lazy greedy form of DivPrune, MMR and IDPruner: the first pick, then rounds over few candidates."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .. import configs, kernels, runtime
from .base import ROW_ALIGNMENT, Batch, Form, ceil_div, padded, tile_constants


class LazyGreedyForm(Form):
    """`outlier_kernel` or `first_pick_kernel`, then `lazy_greedy_kernel`. Memory grows with the rows."""

    name = "lazy_greedy"
    triangular = False

    @staticmethod
    def row_bytes(longest: int) -> int:
        """Reciprocal norm, relevance and key of each row."""
        return 3 * 4 * ROW_ALIGNMENT

    @classmethod
    def item_bytes(cls, element_size: int, count: int, k: int) -> int:
        """The Gram matrix of an item's candidates, and its rows."""
        candidates = configs.candidate_count(element_size, count)
        return 4 * candidates**2 + padded(count) * cls.row_bytes(count)

    @staticmethod
    def kernel_names(method: str) -> tuple[str, ...]:
        """DivPrune's first pick is the top outlier, that of the others the most relevant row."""
        return "outlier_kernel" if method == "divprune" else "first_pick_kernel", "lazy_greedy_kernel"

    def __init__(self, batch: Batch) -> None:
        super().__init__(batch)
        x, segments = batch.tokens.x, batch.segments
        self.config = configs.lazy_greedy_config(x.element_size(), self.architecture, batch.tokens.is_aligned)
        self.block_n = self.config.block_n
        # The compiled kernel has room for candidate_n candidates. Many segments get fewer, to stay within the limit.
        self.candidate_n = configs.candidate_count(x.element_size(), batch.longest)
        self.max_candidates = self.candidate_n
        while self.max_candidates > self.block_n and self._gram_bytes() > runtime.current().workspace_limit:
            self.max_candidates //= 2
        self.keys = self.workspace(batch.capacity * ROW_ALIGNMENT, dtype=torch.int32)
        self.candidate_rows = self.workspace(segments, self.candidate_n, dtype=torch.int32)
        # Loads of a row are candidate_n wide. Those of the last row end behind the matrix.
        self.gram = self.workspace(segments * self.max_candidates**2 + self.candidate_n)

    def _gram_bytes(self) -> int:
        return 4 * self.batch.segments * self.max_candidates**2

    def select(self, sizes: dict[str, Any], k: int, plan: Tensor | None) -> None:
        """The first pick and the lazy greedy rounds."""
        state = self.workspace(self.batch.segments + 1, kernels.STATE_COLUMNS.value, dtype=torch.int32, fill=0)
        current = runtime.current()
        limit = self.max_candidates if current.max_candidates is None else current.max_candidates
        sizes = sizes | {"k": k}
        candidates = {"max_candidates": min(self.max_candidates, limit)}
        out = {"plan": plan, "state": state, "indices": self.batch.out.indices, "scores": self.batch.out.scores}
        constants = {"WITH_SCORES": self.batch.out.scores is not None, "VARLEN": plan is not None}
        if self.batch.method == "divprune":
            self._launch_outlier_search(sizes, candidates, out, constants)
        else:
            self.launch(
                kernels.first_pick_kernel,
                sizes["segments"],
                {"reciprocal_norm": self.reciprocal_norm, "relevance": self.relevance} | out,
                sizes,
                constants | {"METHOD": self.batch.method},
            )
        self._launch_rounds(sizes, candidates | {"max_rounds": current.max_rounds}, out, constants)

    def _rows(self) -> dict[str, Tensor | None]:
        """The tensors of both cooperative kernels."""
        return {
            "x": self.batch.tokens.x,
            "reciprocal_norm": self.reciprocal_norm,
            "keys": self.keys,
            "candidate_rows": self.candidate_rows,
        }

    def _tiles(self) -> dict[str, Any]:
        """The constants of both cooperative kernels."""
        tokens = self.batch.tokens
        tiles = tile_constants(self.config, tokens.x.shape[-1]) | {"ALIGNMENT": tokens.alignment}
        return tiles | {"CANDIDATE_N": self.candidate_n}

    def _launch_outlier_search(
        self,
        sizes: dict[str, Any],
        candidates: dict[str, int],
        out: dict[str, Tensor | None],
        constants: dict[str, Any],
    ) -> None:
        outlier_keys = self.workspace(sizes["segments"], self.candidate_n, dtype=torch.int32)
        self.launch_cooperatively(
            self.config,
            kernels.outlier_kernel,
            self._rows() | out | {"outlier_keys": outlier_keys},
            sizes | self.batch.tokens.sizes() | candidates,
            constants | self._tiles(),
        )

    def _launch_rounds(
        self,
        sizes: dict[str, Any],
        candidates: dict[str, int],
        out: dict[str, Tensor | None],
        constants: dict[str, Any],
    ) -> None:
        batch, segments = self.batch, sizes["segments"]
        gram_blocks = self.max_candidates // self.block_n
        row_blocks = segments * ceil_div(batch.longest, self.block_n)
        gram_tiles = segments * (gram_blocks * (gram_blocks + 1) // 2)
        row_splits, tile_splits = (batch.tokens.splits(units) for units in (row_blocks, gram_tiles))
        split_rows, split_tiles = row_blocks if row_splits > 1 else 0, gram_tiles if tile_splits > 1 else 0
        counters = max(split_rows, split_tiles)
        partial_tiles = max(split_rows * row_splits * kernels.SPLIT_BLOCKS.value, split_tiles * tile_splits)
        self.launch_cooperatively(
            self.config,
            kernels.lazy_greedy_kernel,
            self._rows()
            | out
            | {
                "relevance": self.relevance,
                "gram": self.gram,
                "partial_sums": self.workspace(max(1, partial_tiles * self.block_n**2)),
                "arrival_counters": self.workspace(max(1, counters), dtype=torch.int32, fill=0 if counters else None),
            },
            sizes
            | batch.tokens.sizes()
            | batch.lam_weights()
            | {"gram_blocks": gram_blocks}
            | {"row_splits": row_splits, "tile_splits": tile_splits}
            | candidates,
            constants | self._tiles() | {"METHOD": batch.method, "WARPS": self.config.num_warps},
        )
