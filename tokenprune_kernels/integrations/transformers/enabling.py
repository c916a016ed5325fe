"""Pruning in every call of a model, until it is removed."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor

from .families import family_of
from .prompt import prepend_prompt, with_whole_prompt
from .pruning import Pruning, has_pixels


def enable_pruning(model: Any, **options: Any) -> PruningHandle:
    """Prunes the images and videos of every call of a model: its ``generate`` and its forward pass.

    ``generate`` returns the caller's prompt followed by the new tokens, as without pruning. ``max_length``,
    ``min_length``, stopping criteria, logits processors, ``prefix_allowed_tokens_fn`` and a streamer refer to that
    prompt too. A forward pass with pixel values returns the logits of the shortened sequence and the loss of the labels
    that stay, with gradients. Calls without pixel values, such as decoding steps with a cache, are not changed; in a
    decoding loop of your own, count masks and positions from the shortened prompt.

    Args:
        model: a model of one of the supported families (``...ForConditionalGeneration``).
        options: ``method``, ``k``, ``keep_ratio``, ``importance``, ``relevance``, ``lam``, ``scope``, ``positions`` and
            ``protect_newlines``, as for ``prune_inputs``.

    Returns:
        A handle. Its ``remove()``, or the end of a ``with`` block, restores the model.

    Raises:
        ValueError, TypeError: naming the argument, what was expected and what came; also for a model whose pruning is
            enabled already. Calls of the model raise what ``prune_inputs`` does, and a ValueError for a prompt with
            images or videos beside a cache that holds tokens.

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
        family = family_of(model)
        if isinstance(getattr(vars(model).get("generate"), "__self__", None), PruningHandle):
            raise ValueError("enable_pruning: expected a model without pruning, got one whose pruning is enabled")
        self._model = model
        self._pruning = pruning
        self._generate = model.generate
        self._replaced = vars(model).get("generate")  # None where it is the class's own
        self._state = {name: getattr(model.model, name) for name in family.state}
        self._parameters = list(inspect.signature(model.forward).parameters)
        self._hook = model.register_forward_pre_hook(self._prune_forward, with_kwargs=True)
        model.generate = self._pruned_generate

    def remove(self) -> None:
        """Restores the model: its ``generate``, its hooks and the attributes that pruned calls changed.

        A ``generate`` that was set after ``enable_pruning`` stays. A second call does nothing.
        """
        if self._hook is None:
            return
        self._hook.remove()
        self._hook = None
        if vars(self._model).get("generate") == self._pruned_generate:
            del self._model.generate
            if self._replaced is not None:
                self._model.generate = self._replaced
        for name, value in self._state.items():
            setattr(self._model.model, name, value)

    def __enter__(self) -> PruningHandle:
        return self

    def __exit__(self, *exception: object) -> None:
        self.remove()

    def _pruned_generate(self, inputs: Tensor | None = None, *args: Any, **kwargs: Any) -> Any:
        """``generate`` with pruned images and videos; its arguments and result are those of the model's own."""
        if inputs is not None:
            kwargs["input_ids"] = inputs
        if has_pixels(kwargs) or self._has_placeholders(kwargs):
            _refuse_filled_cache(kwargs)
        if not has_pixels(kwargs):
            return self._generate(None, *args, **kwargs)
        with torch.no_grad():
            pruned = self._pruning(self._model, kwargs)
        prompt, length = kwargs["input_ids"], pruned["input_ids"].shape[1]
        config = kwargs.get("generation_config") or next(iter(args), None)
        for limit, alternative in (("max_length", "max_new_tokens"), ("min_length", "min_new_tokens")):
            value, instead = (self._setting(name, kwargs, config) for name in (limit, alternative))
            if value and instead is None:
                pruned[limit] = max(0, value - (prompt.shape[1] - length))
        beams, sequences = (self._setting(name, kwargs, config) or 1 for name in ("num_beams", "num_return_sequences"))
        pruned.update(with_whole_prompt(kwargs, prompt, length, sequences if beams == 1 else 1))
        result = self._generate(None, *args, **pruned)
        if isinstance(result, Tensor):
            return prepend_prompt(prompt, result[:, length:])
        result.sequences = prepend_prompt(prompt, result.sequences[:, length:])
        return result

    def _setting(self, name: str, kwargs: dict[str, Any], config: Any) -> Any:
        """Looks an option up as ``generate`` does: in its arguments, the given configuration, then the model's own."""
        found = (kwargs.get(name), getattr(config, name, None), getattr(self._model.generation_config, name, None))
        return next((value for value in found if value is not None), None)

    def _has_placeholders(self, inputs: dict[str, Any]) -> bool:
        input_ids, config = inputs.get("input_ids"), self._model.config
        token_ids = [getattr(config, f"{modality}_token_id") for modality in family_of(self._model).modalities]
        return input_ids is not None and any(bool((input_ids == token_id).any()) for token_id in token_ids)

    def _prune_forward(self, model: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        inputs = dict(zip(self._parameters, args, strict=False)) | kwargs
        if not has_pixels(inputs):
            return None
        _refuse_filled_cache(inputs)
        return (), dict(self._pruning(model, inputs))


def _refuse_filled_cache(inputs: dict[str, Any]) -> None:
    cache = inputs.get("past_key_values")
    if cache is not None and cache.get_seq_length() > 0:
        raise ValueError(
            "enable_pruning: expected an empty cache for a prompt with images or videos, as the one that filled it was "
            f"shortened, got past_key_values of {cache.get_seq_length()} tokens"
        )
