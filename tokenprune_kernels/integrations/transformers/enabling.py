"""Pruning in every call of a model, until it is removed."""

from __future__ import annotations

import inspect
import threading
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from .cached import cached_conversation, new_inputs, remember, with_positions
from .conversation import Conversation, begin_text
from .families import family_of, unwrapped
from .family import has_pixels
from .feature_injection import EncoderOutputs
from .loaded_parameters import one_thread_where_offloaded
from .prompt import prepend_prompt, with_whole_prompt
from .pruned_inputs import PrunedInputs
from .pruning import Pruning, has_placeholders
from .sequences import cached_length, positions_of

_enabling = threading.Lock()


def enable_pruning(model: Any, **options: Any) -> PruningHandle:
    """Prunes the images and videos of every call of a model: its ``generate`` and its forward pass.

    ``generate`` returns the caller's prompt followed by the new tokens, as without pruning. ``max_length``,
    ``min_length``, stopping criteria, logits processors, ``prefix_allowed_tokens_fn`` and a streamer refer to that
    prompt too. A forward pass with pixel values returns the logits of the shortened sequence and the loss of the labels
    that stay, with gradients. Calls without pixel values are not changed. In a decoding loop of your own, count the
    mask from the shortened prompt or from the whole one, or leave it out, and leave positions out.

    A further turn of a chat takes ``input_ids`` of the whole conversation, as without pruning, the cache of the turn
    before, and the pixel values of new images and videos alone. ``generate`` notes on a cache what it holds, so
    conversations may take turns on the model, in several threads too.

    Args:
        model: a model of one of the supported families (``...ForConditionalGeneration``), also inside
            ``torch.compile``, PEFT, ``DataParallel`` or ``DistributedDataParallel``.
        options: ``method``, ``k``, ``keep_ratio``, ``importance``, ``relevance``, ``lam``, ``scope``, ``positions``,
            ``protect_newlines`` and ``check_finite``, as for ``prune_inputs``.

    Returns:
        A handle. Its ``remove()``, or the end of a ``with`` block, restores the model.

    Raises:
        ValueError, TypeError: naming the argument, what was expected and what came; also for a model whose pruning is
            enabled already. Calls of the model raise what ``prune_inputs`` does, and a ValueError for a prompt that
            does not go on from the cache that it is given.

    Example:
        A LLaVA model with random weights, and a prompt with the 16 tokens of one image:

        >>> from transformers import LlavaConfig, LlavaForConditionalGeneration
        >>> size = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 2, "num_attention_heads": 1}
        >>> vision = {"model_type": "clip_vision_model", "image_size": 16, "patch_size": 4, **size}
        >>> text = {"model_type": "llama", "vocab_size": 100, "num_key_value_heads": 1, **size}
        >>> config = LlavaConfig(vision_config=vision, text_config=text, image_token_index=99)
        >>> model = LlavaForConditionalGeneration(config).eval()
        >>> inputs = {"input_ids": torch.tensor([[1, *[99] * 16, 2]]), "pixel_values": torch.ones(1, 3, 16, 16)}
        >>> with enable_pruning(model, keep_ratio=0.25):
        ...     pruned = model(**inputs).logits
        >>> pruned.shape, model(**inputs).logits.shape
        (torch.Size([1, 6, 100]), torch.Size([1, 18, 100]))
    """
    return PruningHandle(model, Pruning(**options))


class PruningHandle:
    """Removes pruning from a model; what ``enable_pruning`` returns.

    Also a context manager: the end of the ``with`` block removes pruning, after an error too.

    Example:
        >>> handle = enable_pruning(model, keep_ratio=0.1)  # doctest: +SKIP
        >>> handle.remove()  # doctest: +SKIP
    """

    def __init__(self, model: Any, pruning: Pruning) -> None:
        model = unwrapped(model)
        self._model = model
        self._family = family_of(model)
        self._pruning = pruning
        self._parameters = list(inspect.signature(model.forward).parameters)
        with _enabling:
            if isinstance(getattr(vars(model).get("generate"), "__self__", None), PruningHandle):
                raise ValueError("enable_pruning: expected a model without pruning, got one whose pruning is enabled")
            self._generate = model.generate
            self._replaced = vars(model).get("generate")  # None where it is the class's own
            self._hooks = [
                model.register_forward_pre_hook(_untraced(self._prune_forward), with_kwargs=True),
                model.register_forward_hook(_untraced(self._remember_forward), with_kwargs=True),
            ]
            model.generate = self._pruned_generate

    def remove(self) -> None:
        """Restores the model: its ``generate`` and its hooks.

        A ``generate`` that was set after ``enable_pruning`` stays. A second call does nothing. Calls that are under way
        in other threads end as they began.
        """
        with _enabling:
            while self._hooks:
                self._hooks.pop().remove()
            if vars(self._model).get("generate") == self._pruned_generate:
                del self._model.generate
                if self._replaced is not None:
                    self._model.generate = self._replaced

    def __enter__(self) -> PruningHandle:
        return self

    def __exit__(self, *exception: object) -> None:
        self.remove()

    def _pruned_generate(self, inputs: Tensor | None = None, *args: Any, **kwargs: Any) -> Any:
        """``generate`` with pruned images and videos; its arguments and result are those of the model's own."""
        if inputs is not None:
            kwargs["input_ids"] = inputs
        config = kwargs.get("generation_config") or next(iter(args), None)
        beams, sequences = (self._setting(name, kwargs, config) or 1 for name in ("num_beams", "num_return_sequences"))
        with one_thread_where_offloaded(self._model):
            given, prompt = self._not_cached(kwargs)
            if given.conversation is not None and max(beams, sequences) > 1:
                raise ValueError(
                    "enable_pruning: expected num_beams and num_return_sequences to be 1 beside a filled cache, got "
                    f"{beams} and {sequences}"
                )
            with torch.no_grad():
                pruned = self._pruning(self._model, given)
            if given.conversation is not None and not has_pixels(given):
                pruned = given.conversation.joined(pruned)
            changed = given.conversation is not None or has_pixels(kwargs)
            if changed:
                length = pruned["input_ids"].shape[1]
                pruned.update(self._limits(kwargs, config, prompt.shape[1] - length))
                pruned.update(with_whole_prompt(kwargs, prompt, length, sequences if beams == 1 else 1))
            result = self._generate(None, *args, **(pruned if changed else kwargs))
        if beams == 1:
            _remember(result, kwargs, pruned.conversation)
        return _with_prompt(result, prompt, length) if changed else result

    def _not_cached(self, kwargs: dict[str, Any]) -> tuple[PrunedInputs, Any]:
        """What the cache does not hold yet of the inputs of ``generate``, to be pruned, and the caller's prompt."""
        conversation = cached_conversation(kwargs.get("past_key_values"))
        if conversation is None:
            prompt = kwargs.get("input_ids")
            if has_pixels(kwargs) or has_placeholders(self._model, self._family, prompt):
                _refuse_filled_cache(kwargs)
            return PrunedInputs(kwargs), prompt
        given, prompt = new_inputs(conversation, kwargs)
        if not has_pixels(given) and has_placeholders(self._model, self._family, given.data["input_ids"]):
            raise ValueError("enable_pruning: expected pixel values for the new placeholders, got none")
        return given, prompt

    def _limits(self, kwargs: dict[str, Any], config: Any, dropped: int) -> dict[str, int]:
        """The limits on the length of prompt and answer, less the tokens that were dropped."""
        limits = {}
        for limit, alternative in (("max_length", "max_new_tokens"), ("min_length", "min_new_tokens")):
            value, instead = (self._setting(name, kwargs, config) for name in (limit, alternative))
            if value and instead is None:
                limits[limit] = max(0, value - dropped)
        return limits

    def _setting(self, name: str, kwargs: dict[str, Any], config: Any) -> Any:
        """Looks an option up as ``generate`` does: in its arguments, the given configuration, then the model's own."""
        found = (kwargs.get(name), getattr(config, name, None), getattr(self._model.generation_config, name, None))
        return next((value for value in found if value is not None), None)

    def _prune_forward(self, model: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        inputs = self._by_name(args, kwargs)
        if not has_pixels(inputs):
            held = cached_conversation(inputs.get("past_key_values"))
            return None if held is None else ((), with_positions(held, inputs))
        _refuse_filled_cache(inputs)
        return (), dict(self._pruning(model, inputs))

    def _remember_forward(self, model: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        inputs, cache = self._by_name(args, kwargs), getattr(output, "past_key_values", None)
        encoded = inputs.get("mm_encoder_outputs")
        if isinstance(encoded, EncoderOutputs) and encoded.conversation is not None:
            conversation = encoded.conversation
            if conversation.position_ids is None and inputs.get("position_ids") is not None:  # as generate passes them
                conversation = replace(conversation, position_ids=positions_of(conversation.attention_mask))
            remember(cache, conversation)
        elif encoded is None and inputs.get("position_ids") is None and self._begins(inputs, cache):
            # The model would number what follows by an offset that its last call has left on it.
            remember(cache, begin_text(model, inputs | {"past_key_values": None}, masked=False))

    def _begins(self, inputs: dict[str, Any], cache: Any) -> bool:
        """Whether a forward pass over text has filled an empty cache, in a family with (t, h, w) positions."""
        ids = inputs.get("input_ids")
        return self._family.position_rows > 0 and ids is not None and 0 < cached_length(cache) == ids.shape[-1]

    def _by_name(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        return dict(zip(self._parameters, args, strict=False)) | kwargs


def _untraced(hook: Any) -> Any:
    """A hook that torch.compile does not trace, so that it is never left out of a compiled graph."""
    return torch.compiler.disable(hook, reason="enable_pruning: expected fullgraph=False, as pruning is not traced")


def _remember(result: Any, kwargs: dict[str, Any], conversation: Conversation | None) -> None:
    """Notes what the cache of a call of ``generate`` holds, which may be the caller's or a new one."""
    sequences = result if isinstance(result, Tensor) else result.sequences
    cache = kwargs.get("past_key_values")
    if cache is None:
        cache = getattr(result, "past_key_values", None)
    if cache is not None and conversation is not None and len(sequences) == len(conversation.input_ids):
        remember(cache, conversation.after("enable_pruning", sequences))


def _with_prompt(result: Any, prompt: Tensor, length: int) -> Any:
    """What ``generate`` returned, with the caller's prompt in place of the shortened one."""
    if isinstance(result, Tensor):
        return prepend_prompt(prompt, result[:, length:])
    result.sequences = prepend_prompt(prompt, result.sequences[:, length:])
    return result


def _refuse_filled_cache(inputs: dict[str, Any]) -> None:
    length = cached_length(inputs.get("past_key_values"))
    if length > 0:
        raise ValueError(
            "enable_pruning: expected an empty cache for a prompt with images or videos, as the one that filled it was "
            f"shortened, got past_key_values of {length} tokens"
        )
