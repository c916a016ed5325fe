"""The attention of a vision tower's class token to its patches."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from torch import Tensor

from ..class_token import class_token_attention


@contextlib.contextmanager
def recorded_class_attention(model: Any, inputs: Mapping[str, Any]) -> Iterator[Callable[[], Tensor]]:
    """Records what the class token attends to while the vision tower runs inside the ``with`` block.

    The attention is that of the layer from whose output the model makes its tokens, averaged over the heads. It is
    computed from that layer's queries and keys, so that no full attention map is built and any attention
    implementation may run.

    Yields:
        A function that returns float32 ``[tiles, patches]`` for the latest run of the tower. The class token itself
        comes first if the model makes a token of it.

    Raises:
        ValueError: for a vision tower without a class token.
    """
    tower = getattr(model.model, "vision_tower", None)
    if tower is None or not any(
        name.endswith(("class_embedding", "cls_token")) for name, _ in tower.named_parameters()
    ):
        raise ValueError(
            "prune_inputs: expected a model whose vision tower has a class token with importance 'cls_attention', "
            f"got {type(model).__name__} with {type(tower or model.model).__name__}"
        )
    layer = inputs.get("vision_feature_layer", model.config.vision_feature_layer)
    layer = layer if isinstance(layer, int) else layer[-1]
    attentions = [module for module in tower.modules() if hasattr(module, "q_proj") and hasattr(module, "k_proj")]
    attention = attentions[layer - 1 if layer > 0 else layer]
    strategy = inputs.get("vision_feature_select_strategy", model.config.vision_feature_select_strategy)
    passed: dict[str, Tensor] = {}

    def recorder(name: str) -> Callable[..., None]:
        def record(module: Any, args: Any, output: Tensor) -> None:
            passed[name] = output

        return record

    def class_attention() -> Tensor:
        attended = class_token_attention(passed["q"], passed["k"], attention.num_heads, attention.scale)
        return attended if strategy == "full" else attended[:, 1:]

    # A norm of queries and keys, where there is one, comes between the projection and the product.
    hooks = [
        getattr(attention, f"{name}_norm", getattr(attention, f"{name}_proj")).register_forward_hook(recorder(name))
        for name in ("q", "k")
    ]
    try:
        yield class_attention
    finally:
        for hook in hooks:
            hook.remove()
