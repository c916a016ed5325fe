"""What the class token of a vision tower attends to."""

from __future__ import annotations

from torch import Tensor


def class_token_attention(queries: Tensor, keys: Tensor, heads: int, scale: float) -> Tensor:
    """Returns the attention of the first token to all, averaged over the heads, float32 ``[tiles, tokens]``.

    Args:
        queries: of one layer, the class token's first, ``[tiles, 1 or more, heads * d]``.
        keys: of all tokens, ``[tiles, tokens, heads * d]``.
        heads: how many there are.
        scale: what products of a query and a key are multiplied by.
    """
    first, every = (states.float().unflatten(-1, (heads, -1)) for states in (queries[:, :1], keys))
    # A matrix product would take the precision of autocast, or TF32.
    logits = (first * every).sum(-1) * scale  # [tiles, tokens, heads]
    return logits.softmax(1).mean(-1)
