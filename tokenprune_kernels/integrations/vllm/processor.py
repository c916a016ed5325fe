"""The processor that shortens prompts, in front of one of vLLM's."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cached_property
from itertools import groupby
from typing import Any

import torch
from torch import Tensor
from vllm.exceptions import VLLMValidationError
from vllm.multimodal import MULTIMODAL_REGISTRY
from vllm.multimodal.hasher import MultiModalHasher
from vllm.multimodal.inputs import MultiModalFieldConfig, MultiModalFieldElem
from vllm.multimodal.parse import DictEmbeddingItems, EmbeddingItems
from vllm.multimodal.processing import PromptUpdateDetails

from .engine import check_weight, engine_options, given_options
from .item import FIELD, Item
from .metrics import count_tokens
from .options import OPTION, Options, merged, parsed

logger = logging.getLogger(f"vllm.{__name__}")
# The options of the inputs by which vLLM measures an encoder, known by identity.
UNPRUNED = {OPTION: False}


class PruningProcessor:
    """Mixin in front of a multi-modal processor of vLLM.

    A placeholder of an image or video keeps the first tokens of each segment: which tokens they stand for is decided
    after encoding, how many is known here. What the model has to know travels as a field of the item.
    """

    info: Any
    model_class: Any = None  # this package's class of the model
    segment_is_run = False  # whether each run of placeholders has a budget of its own, or the whole item one

    @cached_property
    def _engine(self) -> Options:
        options = engine_options(self.info.ctx.model_config)
        assert options is not None  # or this were an UnpruningProcessor
        check_weight(options, self.model_class, self.info.ctx.model_config)
        return options

    def check_engine(self) -> None:
        """Raises where the engine's options are wrong."""
        self._engine  # noqa: B018 - a property that checks

    def apply(self, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        """Processes a request, as vLLM's processor does, with its checked options in place of those that it gave.

        vLLM's hash of an item covers them: items that are pruned in different ways, also by different engines, have
        different identifiers.
        """
        given = inputs.hf_processor_mm_kwargs
        checked = self._options(given).identity() | {"measured": given is UNPRUNED}
        inputs = replace(inputs, hf_processor_mm_kwargs={**given, OPTION: checked})
        return super().apply(inputs, *args, **kwargs)  # type: ignore[misc]

    def _options(self, kwargs: Mapping[str, Any]) -> Options:
        """The options of a request."""
        if kwargs is UNPRUNED:
            return parsed(False)
        if OPTION not in kwargs:
            return self._engine
        try:
            options = parsed(merged(given_options(self.info.ctx.model_config), kwargs[OPTION]))
            check_weight(options, self.model_class, self.info.ctx.model_config)
        except (TypeError, ValueError) as error:
            raise VLLMValidationError(str(error), parameter=OPTION) from error
        if kwargs[OPTION] is not False and options.scorer != self._engine.scorer:
            raise VLLMValidationError(f"{OPTION}: expected the engine's scorer in a request, got another")
        return options

    def _apply_hf_processor_main(self, mm_items: Any, hf_kwargs: Mapping[str, Any]) -> Any:
        return super()._apply_hf_processor_main(mm_items, _others(hf_kwargs))  # type: ignore[misc]

    def _get_mm_fields_config(self, hf_inputs: Any, hf_processor_mm_kwargs: Mapping[str, Any]) -> Any:
        return super()._get_mm_fields_config(hf_inputs, _others(hf_processor_mm_kwargs))  # type: ignore[misc]

    def get_dummy_inputs(self, *args: Any, **kwargs: Any) -> Any:
        """The inputs by which vLLM measures: unpruned, as any request may switch pruning off."""
        inputs = super().get_dummy_inputs(*args, **kwargs)  # type: ignore[misc]
        return replace(inputs, hf_processor_mm_kwargs=UNPRUNED)

    def _get_mm_prompt_updates(
        self, mm_items: Any, hf_processor_mm_kwargs: Mapping[str, Any], out_mm_kwargs: Any
    ) -> Any:
        checked = hf_processor_mm_kwargs[OPTION]
        options = Options.identified(checked)
        updates = super()._get_mm_prompt_updates(  # type: ignore[misc]
            mm_items, _others(hf_processor_mm_kwargs), out_mm_kwargs
        )
        return {
            modality: [
                self._shortened(item, data, modality, options, mm_items, counted=not checked["measured"])
                for item, data in zip(items, out_mm_kwargs.get(modality, ()), strict=True)
            ]
            for modality, items in updates.items()
        }

    def _shortened(
        self, updates: list[Any], data: Any, modality: str, options: Options, mm_items: Any, counted: bool
    ) -> list[Any]:
        """The updates of an item, shortened; adds the field of the item to its data."""
        masks = [self._embedded(update.content, modality) for update in updates]
        counts = _segments(masks[0], self.segment_is_run)
        budget = options.budgets.get(modality)
        kept = counts if budget is None else budget.kept(counts)
        given = isinstance(mm_items[modality], EmbeddingItems | DictEmbeddingItems)
        if given and kept != counts and options.weight == "cls_attention":
            raise VLLMValidationError(
                f"{OPTION}: expected pixels with 'cls_attention', got {modality} embeddings", parameter=OPTION
            )
        item = Item(self._digest(data), options.method, options.weight, options.lam, tuple(counts), tuple(kept))
        config = MultiModalFieldConfig.batched(modality, keep_on_cpu=True)
        data[FIELD.format(modality)] = MultiModalFieldElem(data=item.packed(), field=config.field)
        if counted:
            count_tokens(modality, sum(counts), sum(kept))
            logger.debug("%s keeps %d of %d tokens by %s", modality, sum(kept), sum(counts), options.method)
        stays = torch.cat([torch.arange(count) < k for count, k in zip(counts, kept, strict=True)])
        return [
            replace(update, content=self._placeholder(update.content, modality, mask, stays))
            for update, mask in zip(updates, masks, strict=True)
        ]

    def _embedded(self, content: Any, modality: str) -> Tensor:
        """Which tokens of a placeholder stand for tokens of the encoder, bool ``[tokens]``."""
        if content.is_embed is None:
            return torch.ones(len(content.full), dtype=torch.bool)
        return content.is_embed(content.full)

    def _placeholder(self, content: Any, modality: str, embedded: Tensor, stays: Tensor) -> Any:
        """A placeholder without the embedded tokens that do not stay; all other tokens of it stay.

        Args:
            content: the unpruned placeholder.
            modality: ``"image"`` or ``"video"``.
            embedded: what ``_embedded`` returned, bool ``[tokens]``.
            stays: which of the embedded tokens stay, as places: the first ones of each segment.
        """
        if bool(stays.all()):
            return content
        keep = torch.ones(len(embedded), dtype=torch.bool)
        keep[embedded] = stays
        full = [token for token, kept in zip(content.full, keep.tolist(), strict=True) if kept]
        mask = None if content.is_embed is None else embedded[keep]
        return PromptUpdateDetails(full=full, is_embed=None if mask is None else lambda _: mask)

    def _digest(self, data: Any) -> bytes:
        """Of the contents of an item, by which the model remembers which tokens it kept."""
        algorithm = self.info.ctx.get_mm_config().mm_hasher_algorithm
        contents = {name: element.data for name, element in data.items()}
        return bytes.fromhex(MultiModalHasher.hash_kwargs(algorithm, **contents))[:16]


class UnpruningProcessor:
    """Mixin for an engine without the option: refuses it in a request."""

    def apply(self, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        """Processes a request, as vLLM's processor does."""
        if OPTION in inputs.hf_processor_mm_kwargs:
            raise VLLMValidationError(
                f"{OPTION}: expected an engine that was started with it, got it in a request only", parameter=OPTION
            )
        return super().apply(inputs, *args, **kwargs)  # type: ignore[misc]


def _others(kwargs: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in kwargs.items() if name != OPTION}


def _segments(mask: Tensor, by_run: bool) -> list[int]:
    if not by_run:
        return [int(mask.sum())]
    return [len(list(group)) for embedded, group in groupby(mask.tolist()) if embedded]


def pruned(mixin: type = PruningProcessor) -> Callable[[type], type]:
    """Makes a class decorator for a subclass of a model: it registers the model's processor behind the mixin.

    The subclass gets the name of the model, by which vLLM tells models apart that have a drafter.
    """

    def register(model_class: Any) -> Any:
        own = next(base for base in model_class.__mro__ if base.__module__.startswith("vllm."))
        model_class.__name__ = model_class.__qualname__ = own.__name__
        factories = model_class._processor_factory

        def make_info(ctx: Any) -> Any:
            given_options(ctx.model_config)  # first of all: they are hidden from the processors of transformers
            return factories.info(ctx)

        def make_processor(info: Any, dummy_inputs: Any) -> Any:
            base = type(factories.processor(info, dummy_inputs))
            if given_options(info.ctx.model_config) is None:
                return type(base.__name__, (UnpruningProcessor, base), {})(info, dummy_inputs)
            pruning = type(f"Pruned{base.__name__}", (mixin, base), {"model_class": model_class})
            processor = pruning(info, dummy_inputs)
            processor.check_engine()
            return processor

        registered = MULTIMODAL_REGISTRY.register_processor(
            make_processor, info=make_info, dummy_inputs=factories.dummy_inputs
        )
        return registered(model_class)

    return register
