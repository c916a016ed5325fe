"""Methods that drop visual tokens inside the decoder, for the accuracy of their answers.

From some layer on, no token attends to a dropped one. Its row stays where it is, with its position: nothing is saved,
and the answers are those of dropping it. The decoder runs its eager attention, which hands its weights out.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from tokenprune_kernels.baselines import top_k

Choice = Callable[[Tensor | None], Tensor]
"""From the attention that the layer before pays to each visual token, ``[B, N]``, to what stays, bool ``[B, N]``."""


def fastv(k: int) -> Choice:
    """FastV's choice: the k visual tokens that receive most attention (arXiv 2403.06764, section 4)."""

    def choose(attention: Tensor | None) -> Tensor:
        assert attention is not None
        kept = torch.zeros_like(attention, dtype=torch.bool)
        return kept.scatter(-1, top_k(attention, k), True)

    return choose


def vtw(rows: int, count: int) -> Choice:
    """VTW's choice: no visual token (arXiv 2405.05803, section 3)."""
    return lambda attention: torch.zeros(rows, count, dtype=torch.bool)


@contextlib.contextmanager
def dropping(made: Any, visual: Tensor, layer: int, choose: Choice, *, of_last_token: bool = False) -> Iterator[None]:
    """Drops visual tokens behind the first layers, inside the ``with`` block, in one call of ``generate``.

    Args:
        made: the model.
        visual: bool ``[B, L]``, which tokens of the prompt are visual, as many in each row.
        layer: how many layers see all tokens, at least 1.
        choose: says what stays after them, given the attention of the last of them, averaged over its heads.
        of_last_token: whether that is the attention of the prompt's last token, or the average over all tokens.
    """
    layers = made.model.language_model.layers
    rows, length = visual.shape
    visible = torch.ones(rows, length, dtype=torch.bool)

    def look(module: Any, arguments: Any, output: Any) -> None:
        weights = output[1]
        if weights.shape[-2] != length:
            return  # a step of decoding; what stays was chosen in the prefill
        by_token = weights.float().mean(dim=1)
        received = by_token[:, -1] if of_last_token else by_token.mean(dim=1)
        received = received[visual].view(rows, -1)
        visible[visual] = choose(received).flatten()

    def hide(module: Any, arguments: Any, options: dict[str, Any]) -> Any:
        mask, queries = options["attention_mask"], arguments[0].shape[1]
        columns = length if queries == length else options["past_key_values"].get_seq_length(0)
        if mask is None:
            mask = torch.zeros(queries, columns).masked_fill(
                torch.ones(queries, columns, dtype=torch.bool).triu(columns - queries + 1),
                torch.finfo(torch.float32).min,
            )[None, None]
        hidden = torch.zeros(rows, columns, dtype=torch.bool)
        hidden[:, :length] = ~visible
        blocked = hidden[:, None, None, :].expand(-1, 1, queries, -1)
        if queries == length:  # a token that is dropped still sees itself, so that its row is not empty
            blocked = blocked & ~torch.eye(length, dtype=torch.bool)
        return arguments, options | {"attention_mask": mask.masked_fill(blocked, torch.finfo(torch.float32).min)}

    hooks = [layers[layer - 1].self_attn.register_forward_hook(look)]
    hooks += [each.register_forward_pre_hook(hide, with_kwargs=True) for each in layers[layer:]]
    implementation = made.model.language_model.config._attn_implementation
    made.model.language_model.set_attn_implementation("eager")
    try:
        yield
    finally:
        made.model.language_model.set_attn_implementation(implementation)
        for hook in hooks:
            hook.remove()
