"""Pruning of visual tokens in vLLM, behind the vision encoder.

Installing this package is enough: vLLM calls ``register`` by its entry point ``vllm.general_plugins``. Without the
option ``tokenprune``, an engine is not changed. With it, every image and video keeps the tokens that a method of this
package selects, and takes as many places of the prompt:

    vllm serve MODEL --mm-processor-kwargs '{"tokenprune": {"method": "divprune", "keep_ratio": 0.1}}'

The documentation's page on vLLM lists the options, the models and what was verified on which version.
"""

from typing import Any

from .registration import ARCHITECTURES, model_class, register

__all__ = ["register"]


def __getattr__(name: str) -> Any:
    """The class of an architecture, which vLLM looks up here when it serves one.

    vLLM remembers on disk what it learned of a class, for as long as the files of this folder stay the same.
    """
    if name in ARCHITECTURES:
        return model_class(name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
