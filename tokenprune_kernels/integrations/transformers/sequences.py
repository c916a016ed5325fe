"""Token sequences from which tokens are dropped."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

# The model inputs with one value per token, other than input_ids and position_ids, and the value of padding in each.
FILL = {"attention_mask": 0, "token_type_ids": 0, "mm_token_type_ids": 0, "labels": -100}


class Shortening:
    """Drops tokens from the rows of a batch, and pads the rows to one length again.

    The new length is that of the longest row, plus the padding that all rows shared before. Padding goes to the side
    that was padded before, and to the left if neither was. When no token is dropped, nothing changes.
    """

    def __init__(self, keep: Tensor, attention_mask: Tensor, spare: int = 0) -> None:
        """Computes the source column of every token that stays.

        Args:
            keep: bool ``[B, L]``, False where a token is dropped.
            attention_mask: ``[B, L]``, 0 where a token is masked.
            spare: how many columns of padding to add, as far as the old length allows.
        """
        right = bool((attention_mask[:, -1] == 0).any())
        padding = ((attention_mask.flip(-1) if right else attention_mask).cumsum(-1) == 0).sum(-1)
        length = int((keep.sum(-1) - padding).max() + padding.min()) + spare
        order = keep.to(torch.int8).argsort(dim=-1, descending=right, stable=True)
        self._source = order[:, :length] if right else order[:, -length:]
        self._kept = keep.gather(-1, self._source)

    def __call__(self, values: Tensor, fill: int | bool) -> Tensor:
        """Returns the values ``[..., B, L]`` of the tokens that stay, ``[..., B, L']``, with `fill` in new padding."""
        source = self._source.to(values.device).expand(*values.shape[:-2], *self._source.shape)
        return values.gather(-1, source).where(self._kept.to(values.device), fill)

    def columns(self) -> Tensor:
        """The old column of each new one, int64 ``[B, L']``; -1 in new padding."""
        return self._source.where(self._kept, -1)


def run_lengths(mask: Tensor) -> list[int]:
    """The lengths of the runs of True in the rows of a bool ``[B, L]``, row by row."""
    edges = F.pad(mask.to(torch.int8), (1, 1)).flatten().diff().nonzero().squeeze(-1)
    return (edges[1::2] - edges[::2]).tolist()


def cached_length(cache: Any) -> int:
    """How many tokens a cache holds; 0 where there is none."""
    if cache is None:
        return 0
    return int(cache.get_seq_length())


def cached_rows(cache: Any) -> int | None:
    """How many sequences a cache holds; None where it does not say."""
    keys = getattr(next(iter(getattr(cache, "layers", ())), None), "keys", None)
    return len(keys) if isinstance(keys, Tensor) and keys.dim() == 4 else None


def positions_of(attention_mask: Tensor) -> Tensor:
    """The position of each token among the unmasked tokens of its row, ``[B, L]``; 0 where it is masked."""
    return (attention_mask.long().cumsum(-1) - 1).masked_fill(attention_mask == 0, 0)


def next_positions(position_ids: Tensor, attention_mask: Tensor) -> Tensor:
    """The position after the last unmasked token of each row, ``[B, 1]``, for positions ``[..., B, L]``."""
    placed = position_ids.masked_fill(attention_mask == 0, -1)
    last = placed.amax(-1, keepdim=True)
    return (last.amax(0) if placed.dim() > 2 else last) + 1


def column_after_the_last(attention_mask: Tensor) -> Tensor:
    """The number of the column after the last unmasked one of each row, ``[B, 1]``."""
    columns = torch.arange(1, attention_mask.shape[1] + 1, device=attention_mask.device)
    return (columns * (attention_mask != 0)).amax(-1, keepdim=True)
