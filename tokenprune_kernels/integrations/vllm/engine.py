"""What an engine was started with."""

from __future__ import annotations

from typing import Any

from .options import OPTION, WEIGHTS, Options, merged, parsed


def given_options(model_config: Any) -> Any:
    """Returns the option as the engine was given it; None where it was not, which leaves every model as it is.

    It comes from ``hf_overrides`` or from ``mm_processor_kwargs``, which wins. The latter is moved to the former: vLLM
    would hand it to the processors of transformers, which do not know it.
    """
    config, kwargs = model_config.hf_config, model_config.get_multimodal_config().mm_processor_kwargs
    if kwargs and OPTION in kwargs:
        given = merged(getattr(config, OPTION, None), kwargs[OPTION])
        setattr(config, OPTION, given)
        model_config.get_multimodal_config().mm_processor_kwargs = {
            name: value for name, value in kwargs.items() if name != OPTION
        }
    given = getattr(config, OPTION, None)
    return None if given is False else given


def engine_options(model_config: Any) -> Options | None:
    """Returns the checked options of an engine; None where it does not prune.

    Raises:
        ValueError, TypeError: naming the option that is wrong, or another that does not go with it.
    """
    given = given_options(model_config)
    if given is None:
        return None
    options = parsed(given)
    multimodal = model_config.get_multimodal_config()
    rate = multimodal.video_pruning_rate
    if rate and rate != ENABLES_POSITIONS:
        raise ValueError(f"{OPTION}: expected no video_pruning_rate beside it, got {rate}")
    return options


def check_weight(options: Options, model_class: Any, model_config: Any) -> None:
    """Raises for an importance or relevance that a model does not have.

    Args:
        options: of an engine or of a request.
        model_class: this package's class of the model.
        model_config: vLLM's.

    Raises:
        ValueError: naming those that it has, or the setting that is in the way.
    """
    if options.weight is None:
        return
    tower = getattr(model_config.hf_config.vision_config, "model_type", "")
    weights = [name for name in WEIGHTS if name != "cls_attention" or tower in model_class.class_token_towers]
    if options.weight not in weights:
        raise ValueError(
            f"{OPTION}: expected an importance or relevance among {', '.join(weights)} for "
            f"{model_class.__name__} with {tower}, got {options.weight!r}"
        )
    if options.weight == "cls_attention" and model_config.get_multimodal_config().mm_encoder_tp_mode == "data":
        raise ValueError(f"{OPTION}: expected mm_encoder_tp_mode 'weights' with 'cls_attention', got 'data'")


def refusing(model_class: Any, reason: str) -> Any:
    """Returns a model class of vLLM that raises for an engine with the option, and else is as it was.

    Args:
        model_class: vLLM's own.
        reason: the message of the ``ImportError``.
    """

    class Refusing(model_class):  # type: ignore[misc]
        def __init__(self, *, vllm_config: Any, prefix: str = "") -> None:
            if given_options(vllm_config.model_config) is not None:
                raise ImportError(reason)
            super().__init__(vllm_config=vllm_config, prefix=prefix)

    Refusing.__name__ = Refusing.__qualname__ = model_class.__name__
    return Refusing


# A video_pruning_rate that makes vLLM ask a model for positions and prunes nothing: 1 - 1e-300 is 1.
ENABLES_POSITIONS = 1e-300
