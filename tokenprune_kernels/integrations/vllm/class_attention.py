"""The attention of a vision tower's class token, recorded while vLLM's model encodes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from vllm.distributed import get_tensor_model_parallel_world_size, tensor_model_parallel_all_reduce
from vllm.model_executor.layers.attention import MMEncoderAttention

from ..class_token import class_token_attention
from .item import Item
from .model import PruningModel
from .options import OPTION


class ClassAttention(PruningModel):
    """Mixin for models whose towers may have a class token."""

    tower: str  # the name of the vision tower

    @contextmanager
    def _class_attention(self, items: Sequence[Item]) -> Iterator[Callable[[Mapping[str, Any]], Sequence[Tensor]]]:
        if not any(item.weight == "cls_attention" and not item.keeps_all for item in items):
            yield lambda kwargs: []
            return
        layers = [each for each in getattr(self, self.tower).modules() if isinstance(each, MMEncoderAttention)]
        layer = layers[self._attention_layer(len(layers))]
        passed: list[Sequence[Tensor]] = []

        def record(module: Any, args: Sequence[Tensor]) -> None:
            passed.append(args[:2])

        def attention(kwargs: Mapping[str, Any]) -> Sequence[Tensor]:
            if not passed:
                raise RuntimeError(f"{OPTION}: expected the vision tower to run for 'cls_attention', got no call of it")
            # A model may run its tower several times, in the order of the items.
            calls = [class_token_attention(queries, keys, layer.num_heads, layer.scale) for queries, keys in passed]
            attended = torch.cat(calls)
            # Under tensor parallelism a rank has some of the heads, and every rank as many.
            attended = tensor_model_parallel_all_reduce(attended) / get_tensor_model_parallel_world_size()
            return self._attention_of_items(attended, kwargs)

        hook = layer.register_forward_pre_hook(record)
        try:
            yield attention
        finally:
            hook.remove()

    def _attention_layer(self, layers: int) -> int:
        """The layer from whose output the model makes its tokens; vLLM makes no layers behind the last one it needs."""
        return layers - 1

    def _attention_of_items(self, attention: Tensor, kwargs: Mapping[str, Any]) -> Sequence[Tensor]:
        """Brings the attention to all tokens of the tower, ``[tiles, tokens]``, into the order of each item's tokens.

        Returns:
            ``[n_i]`` for each item.
        """
        raise NotImplementedError


class LlavaClassAttention(ClassAttention):
    """Mixin for the models of the LLaVA family."""

    config: Any
    tower = "vision_tower"
    class_token_towers = ("clip_vision_model",)

    def _attention_layer(self, layers: int) -> int:
        feature_layer = self.config.vision_feature_layer
        if isinstance(feature_layer, int):
            return layers - 1
        last = feature_layer[-1]
        return last - 1 if last > 0 else self.config.vision_config.num_hidden_layers + last

    def _patches(self, attention: Tensor) -> Tensor:
        """The attention to what the model makes tokens of."""
        return attention if self.config.vision_feature_select_strategy == "full" else attention[:, 1:]
