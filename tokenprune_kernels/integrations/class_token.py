"""What the class token of a vision tower attends to."""

from __future__ import annotations

import torch
from torch import Tensor


def class_token_attention(queries: Tensor, keys: Tensor, heads: int, scale: float) -> Tensor:
    """Returns the attention of the first token to all, averaged over the heads, float32 ``[tiles, tokens]``.

    Args:
        queries: of one layer, ``[tiles, tokens, heads * d]``.
        keys: likewise.
        heads: how many there are.
        scale: what products of a query and a key are multiplied by.
    """
    first, every = (each.float().unflatten(-1, (heads, -1)) for each in (queries[:, 0], keys))
    logits = torch.einsum("thd,tnhd->thn", first, every) * scale
    return logits.softmax(-1).mean(1)
