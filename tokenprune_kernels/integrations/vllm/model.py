"""The model that drops embeddings, in front of one of vLLM's."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor
from vllm.distributed import get_tp_group

from .drafter import refuse_drafter
from .engine import check_weight, engine_options
from .item import Item, popped_items
from .options import MODALITIES, OPTION
from .requirement import refuse
from .selection import RowSelection

logger = logging.getLogger(f"vllm.{__name__}")


class PruningModel:
    """Mixin in front of a model of vLLM whose ``embed_multimodal`` returns a tensor ``[n_i, D]`` for each item.

    Attributes:
        prunes: whether the engine was started with the option. Where it is False, the model is vLLM's own.
        class_token_towers: the vision towers, by model_type, whose class token's attention is known.
        drafters_read_images: whether vLLM's drafters of this model can have its rows.
        leans_on: what is read or called of vLLM's model beside the interfaces in ``SEAMS``.
    """

    prunes = False
    class_token_towers: tuple[str, ...] = ()
    drafters_read_images = True
    leans_on: tuple[str, ...] = ()

    def __init__(self, *, vllm_config: Any, prefix: str = "") -> None:
        options = engine_options(vllm_config.model_config)
        if options is None:
            super().__init__(vllm_config=vllm_config, prefix=prefix)  # type: ignore[call-arg]
            return
        _check_engine(vllm_config)
        refuse_drafter(vllm_config.speculative_config, type(self))
        check_weight(options, type(self), vllm_config.model_config)
        # Tokens are selected by what the language model gets of them.
        selection = RowSelection(options, vllm_config.model_config.get_inputs_embeds_size(), get_tp_group())
        self._prepare(vllm_config)
        super().__init__(vllm_config=vllm_config, prefix=prefix)  # type: ignore[call-arg]
        self.prunes = True
        self._encoder_tokens = vllm_config.scheduler_config.max_num_encoder_input_tokens
        self._selection = selection
        self._check_model()

    def _prepare(self, vllm_config: Any) -> None:
        """What a family does before vLLM's model is made, in an engine that prunes."""

    def _check_model(self) -> None:
        """Raises for a vLLM whose model lacks something of ``leans_on``.

        Raises:
            ImportError: names everything that is missing.
        """
        refuse([f"{type(self).__name__}.{name}" for name in self.leans_on if not hasattr(self, name)])

    def load_weights(self, weights: Any) -> Any:
        """Loads weights, other ones perhaps than before: what was selected with those is forgotten."""
        if self.prunes:
            self._selection.forget()
        return super().load_weights(weights)  # type: ignore[misc]

    def embed_multimodal(self, **kwargs: Any) -> Any:
        """Encodes images or videos, and returns the tokens of each that stay."""
        items = popped_items(kwargs, MODALITIES)
        if not self.prunes or not items:
            return super().embed_multimodal(**kwargs)  # type: ignore[misc]
        embeddings: list[Tensor] = []
        attention: list[Tensor] = []
        for first, last in pieces([sum(item.counts) for item in items], self._encoder_tokens):
            piece = kwargs if last - first == len(items) else self._of_items(kwargs, first, last)
            with self._class_attention(items) as attended:
                embeddings += super().embed_multimodal(**piece)  # type: ignore[misc]
                attention += attended(piece)
        _check_lengths("embeddings", items, embeddings)
        if attention:
            _check_lengths("attention of the class token", items, attention)
        started = time.perf_counter()
        rows = self._selection(items, [self._tokens(each) for each in embeddings], attention)
        if not all(item.keeps_all for item in items):
            logger.debug(
                "%d of %d tokens of %d images and videos selected in %.2f ms",
                sum(map(len, rows)),
                sum(map(len, embeddings)),
                len(items),
                1e3 * (time.perf_counter() - started),
            )
        return tuple(self._gathered(embeddings, rows, kwargs))

    def _of_items(self, kwargs: Mapping[str, Any], first: int, last: int) -> dict[str, Any]:
        """The arguments of ``embed_multimodal`` for some of its items, where each value has one entry for each."""
        return {name: value[first:last] for name, value in kwargs.items()}

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


def pieces(counts: Sequence[int], most: int) -> Iterator[tuple[int, int]]:
    """Divides items into runs that the encoder takes at once, as ``(first, last + 1)``.

    vLLM counts an item's tokens after pruning when it fills a step, and measured the encoder with as many before.

    Args:
        counts: how many tokens each item has before pruning.
        most: how many tokens a run may have, unless it is of one item.
    """
    first = total = 0
    for number, count in enumerate(counts):
        if number > first and total + count > most:
            yield first, number
            first, total = number, 0
        total += count
    yield first, len(counts)


def _check_lengths(name: str, items: Sequence[Item], given: Sequence[Tensor]) -> None:
    """Raises where what was made of the items has not a row for each of their tokens."""
    expected, got = [sum(item.counts) for item in items], [len(each) for each in given]
    if expected != got:
        raise RuntimeError(f"{OPTION}: expected {name} of {expected} tokens, got {got}")


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
