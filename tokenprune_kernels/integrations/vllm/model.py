"""The model that drops embeddings, in front of one of vLLM's."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor
from vllm.distributed import get_tp_group
from vllm.logger import init_logger

from .engine import engine_options
from .item import Item, popped_items
from .options import MODALITIES, OPTION
from .selection import RowSelection

logger = init_logger(f"vllm.{__name__}")


class PruningModel:
    """Mixin in front of a model of vLLM whose ``embed_multimodal`` returns a tensor ``[n_i, D]`` for each item."""

    weights: tuple[str, ...] = ("norm", "vision_selector")  # the importances and relevances that there are

    def __init__(self, *, vllm_config: Any, prefix: str = "") -> None:
        options = engine_options(vllm_config.model_config)
        if options is not None:
            _check_engine(vllm_config)
        if options is not None and options.weight not in (None, *self.weights):
            raise ValueError(
                f"{OPTION}: expected an importance or relevance among {', '.join(self.weights)} for "
                f"{type(self).__name__.removeprefix('Pruned')}, got {options.weight!r}"
            )
        self._prepare(vllm_config, pruning=options is not None)
        super().__init__(vllm_config=vllm_config, prefix=prefix)  # type: ignore[call-arg]
        self._options = options
        self._selection = None if options is None else RowSelection(options, get_tp_group())

    def _prepare(self, vllm_config: Any, pruning: bool) -> None:
        """What a family does before vLLM's model is made."""

    def embed_multimodal(self, **kwargs: Any) -> Any:
        """Encodes images or videos, and returns the tokens of each that stay."""
        items = popped_items(kwargs, MODALITIES)
        if self._selection is None or not items:
            return super().embed_multimodal(**kwargs)  # type: ignore[misc]
        with self._class_attention(items) as attention:
            embeddings = list(super().embed_multimodal(**kwargs))  # type: ignore[misc]
            if len(embeddings) != len(items):
                raise RuntimeError(
                    f"{OPTION}: expected embeddings of {len(items)} items, got those of {len(embeddings)}"
                )
            started = time.perf_counter()
            rows = self._selection(items, [self._tokens(each) for each in embeddings], lambda: attention(kwargs))
        if not all(item.keeps_all for item in items):
            logger.debug(
                "%d of %d tokens of %d images and videos selected in %.2f ms",
                sum(map(len, rows)),
                sum(map(len, embeddings)),
                len(items),
                1e3 * (time.perf_counter() - started),
            )
        return tuple(self._gathered(embeddings, rows, kwargs))

    def _tokens(self, embedding: Tensor) -> Tensor:
        """The part of an item's embedding that is selected by, ``[n, D]``."""
        return embedding

    def _gathered(
        self, embeddings: Sequence[Tensor], rows: Sequence[Tensor], kwargs: Mapping[str, Any]
    ) -> Iterator[Tensor]:
        """What the language model gets of each item."""
        for embedding, kept in zip(embeddings, rows, strict=True):
            yield embedding if len(kept) == len(embedding) else embedding[kept]

    @contextmanager
    def _class_attention(self, items: Sequence[Item]) -> Iterator[Callable[[Mapping[str, Any]], Sequence[Tensor]]]:
        """Records what the class token attends to while the encoder runs, if an item needs it.

        Yields:
            A function of the encoder's arguments that returns float32 ``[n_i]`` for each item.
        """
        yield lambda kwargs: []


def _check_engine(vllm_config: Any) -> None:
    """Refuses what would go wrong in silence.

    Raises:
        ValueError: naming the setting.
    """
    lora = vllm_config.lora_config
    if lora is not None and lora.enable_tower_connector_lora:
        raise ValueError(f"{OPTION}: expected adapters of the language model alone, got enable_tower_connector_lora")
    if vllm_config.compilation_config.cudagraph_mm_encoder:  # the graphs go round embed_multimodal
        raise ValueError(f"{OPTION}: expected no CUDA graphs of the encoder, got cudagraph_mm_encoder")
