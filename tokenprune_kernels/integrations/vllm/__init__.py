"""Pruning of visual tokens in vLLM, behind the vision encoder.

Installing this package is enough: vLLM calls ``register`` by its entry point ``vllm.general_plugins``. Without the
option ``tokenprune``, an engine is not changed. With it, every image and video keeps the tokens that a method of this
package selects, and takes as many places of the prompt:

    vllm serve MODEL --mm-processor-kwargs '{"tokenprune": {"method": "divprune", "keep_ratio": 0.1}}'

The documentation's page on vLLM lists the options, the models and what was verified on which version.
"""

from .registration import register

__all__ = ["register"]
