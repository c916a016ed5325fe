"""The attention of a vision tower's class token to its patches."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ..class_token import class_token_attention

_NORMS = ("layer_norm1", "layernorm_before", "norm1")  # before a layer's attention: CLIP and SigLIP, InternVL, DINOv2


def class_attention(model: Any, inputs: Mapping[str, Any], hidden_states: tuple[Tensor, ...]) -> Tensor:
    """Computes what the class token attends to in the layer from whose output the model makes its tokens.

    That layer's queries and keys are computed once more, from its input. So no full attention map is built, any
    attention implementation may run, a compiled tower too, and nothing is left on the model for another thread to see.

    Args:
        model: the model.
        inputs: its inputs.
        hidden_states: of the vision tower, ``[tiles, 1 + patches, D]``: the input of its first layer, then the output
            of each.

    Returns:
        float32 ``[tiles, patches]``, averaged over the heads. The class token itself comes first if the model makes a
        token of it.
    """
    layers = _attention_layers(model.model.vision_tower)
    number = _setting(model, inputs, "vision_feature_layer")
    number = number if isinstance(number, int) else number[-1]
    number = max(0, number % (len(layers) + 1) - 1)  # of the layer; hidden states begin with the first one's input
    layer, attention = layers[number]
    norm = next((getattr(layer, name) for name in _NORMS if hasattr(layer, name)), None)
    if norm is None:
        raise ValueError(
            f"prune_inputs: expected a vision tower whose layers have {' or '.join(_NORMS)} with importance "
            f"'cls_attention', got {type(layer).__name__}"
        )
    normalised = norm(hidden_states[number])
    queries, keys = attention.q_proj(normalised[:, :1]), attention.k_proj(normalised)
    if hasattr(attention, "q_norm"):
        queries, keys = attention.q_norm(queries), attention.k_norm(keys)
    heads = _either(attention, "num_heads", "num_attention_heads")
    attended = class_token_attention(queries, keys, heads, _either(attention, "scale", "scaling"))
    return attended if _setting(model, inputs, "vision_feature_select_strategy") == "full" else attended[:, 1:]


def check_class_token(model: Any) -> None:
    """Raises in the name of ``prune_inputs`` for a model whose vision tower has no class token."""
    tower = getattr(model.model, "vision_tower", None)
    if tower is None or not any(
        name.endswith(("class_embedding", "cls_token")) for name, _ in tower.named_parameters()
    ):
        raise ValueError(
            "prune_inputs: expected a model whose vision tower has a class token with importance 'cls_attention', "
            f"got {type(model).__name__} with {type(tower or model.model).__name__}"
        )


def _setting(model: Any, inputs: Mapping[str, Any], name: str) -> Any:
    return inputs.get(name, getattr(model.config, name))


def _either(attention: Any, name: str, other: str) -> Any:
    """What towers call by one of two names, DINOv2's by the second."""
    return getattr(attention, name) if hasattr(attention, name) else getattr(attention, other)


def _attention_layers(tower: Any) -> list[tuple[Any, Any]]:
    """The tower's layers, each with its attention module."""
    return [
        (layer, attention)
        for layer in tower.modules()
        for attention in layer.children()
        if hasattr(attention, "q_proj") and hasattr(attention, "k_proj")
    ]
