"""Methods that drop visual tokens inside the decoder, for the accuracy of their answers.

Behind some layer the rows of dropped tokens are gone, and the others keep their positions. The last layer before that
runs its eager attention, which hands its weights out.
"""

from __future__ import annotations

import contextlib
import copy
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
    stays = torch.arange(length).expand(rows, -1)

    def causal(module: Any, arguments: Any, options: dict[str, Any]) -> Any:
        if arguments[0].shape[1] != length:
            return None  # a step of decoding, whose token sees all before it
        # Without a mask, eager attention is not causal.
        later = torch.ones(length, length, dtype=torch.bool).triu(1)
        mask = torch.zeros(length, length).masked_fill(later, torch.finfo(torch.float32).min)[None, None]
        return arguments, options | {"attention_mask": mask}

    def look(module: Any, arguments: Any, output: Any) -> None:
        weights = output[1]
        if weights.shape[-2] != length:
            return  # what stays was chosen in the prefill
        by_token = weights.float().mean(dim=1)
        received = by_token[:, -1] if of_last_token else by_token.mean(dim=1)
        received = received[visual].view(rows, -1)
        visible = torch.ones(rows, length, dtype=torch.bool)
        visible[visual] = choose(received).flatten()
        nonlocal stays
        stays = visible.nonzero()[:, 1].view(rows, -1)

    def of_those_that_stay(given: Tensor) -> Tensor:
        """Rows of ``[B or 1, L, ...]``."""
        return given.expand(rows, *given.shape[1:])[torch.arange(rows).unsqueeze(1), stays]

    def shorten(module: Any, arguments: Any, options: dict[str, Any]) -> Any:
        states = arguments[0]
        if states.shape[1] == 1:
            return None
        changed = {
            "attention_mask": None,  # no prompt is padded
            "position_ids": of_those_that_stay(options["position_ids"]),
            "position_embeddings": tuple(of_those_that_stay(each) for each in options["position_embeddings"]),
        }
        # Only the first of these layers is handed all rows.
        return (of_those_that_stay(states) if module is layers[layer] else states,), options | changed

    last = layers[layer - 1]
    hooks = [
        last.register_forward_pre_hook(causal, with_kwargs=True),
        last.self_attn.register_forward_hook(look),
    ]
    hooks += [each.register_forward_pre_hook(shorten, with_kwargs=True) for each in layers[layer:]]
    configuration = last.self_attn.config
    last.self_attn.config = copy.deepcopy(configuration)
    last.self_attn.config._attn_implementation = "eager"
    try:
        yield
    finally:
        last.self_attn.config = configuration
        for hook in hooks:
            hook.remove()
