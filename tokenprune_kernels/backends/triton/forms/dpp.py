"""The form of the DPP: all rows are updated with a pick before the next one is made."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .. import configs, kernels
from .base import ROW_ALIGNMENT, Batch, Form, padded, tile_constants
from .materialised import MaterialisedForm


class DppForm(Form):
    """`dpp_kernel`. Memory grows with the rows times the largest k of an item.

    Of a ragged batch, that k is ``total_k`` or ``max_seqlen`` at most.
    """

    name = "dpp"
    triangular = False

    @staticmethod
    def row_bytes(longest: int) -> int:
        """A row of the Cholesky factor for each row, if all rows are picked."""
        return MaterialisedForm.row_bytes(longest)

    @classmethod
    def item_bytes(cls, element_size: int, count: int, k: int) -> int:
        """The Cholesky factor of an item: a row for each pick."""
        return 4 * max(1, k) * padded(count) * ROW_ALIGNMENT

    @staticmethod
    def kernel_names(method: str) -> tuple[str, ...]:
        """The DPP has one kernel."""
        return ("dpp_kernel",)

    def __init__(self, batch: Batch) -> None:
        super().__init__(batch)
        self.config = configs.dpp_config(batch.tokens.x.element_size())
        self.block_n = self.config.block_n

    def select(self, sizes: dict[str, Any], k: int, plan: Tensor | None) -> None:
        """All steps."""
        batch, x, segments = self.batch, self.batch.tokens.x, sizes["segments"]
        max_k = k if plan is None else min(batch.longest, batch.out.indices.shape[0])
        rows = batch.capacity * ROW_ALIGNMENT
        lowest = torch.iinfo(torch.int64).min, torch.iinfo(torch.int32).min
        self.launch_cooperatively(
            self.config,
            kernels.dpp_kernel,
            {
                "x": x,
                "plan": plan,
                "reciprocal_norm": self.reciprocal_norm,
                "relevance": self.relevance,
                "gains": self.workspace(rows),
                "factor": self.workspace(max_k, rows),
                "packed_picks": self.workspace(segments, max_k, dtype=torch.int64, fill=lowest[0]),
                "max_root_keys": self.workspace(segments, dtype=torch.int32, fill=lowest[1]),
                "arrival_counter": self.workspace(1, dtype=torch.int32, fill=0),
                "indices": batch.out.indices,
                "scores": batch.out.scores,
            },
            sizes | batch.tokens.sizes() | {"k": k, "max_k": max_k, "stride_f": rows},
            {
                "WITH_SCORES": batch.out.scores is not None,
                "VARLEN": plan is not None,
                "ALIGNMENT": batch.tokens.alignment,
            }
            | tile_constants(self.config, x.shape[-1]),
        )
