"""A gap of vLLM's CPU runner: it never asks whether a model has positions of its own for pruned items."""

from __future__ import annotations

from typing import Any

_FLAG = "is_multimodal_pruning_enabled"


def make_cpu_runner_ask() -> None:
    """Lets ``CPUModelRunner`` read the flag from its model. A second call does nothing.

    ``GPUModelRunner.load_model`` sets it after loading. ``CPUModelRunner`` overrides that method and does not, in vLLM
    0.31 to 0.33.
    """
    from vllm.v1.worker.cpu_model_runner import CPUModelRunner

    if isinstance(vars(CPUModelRunner).get(_FLAG), property):
        return

    def enabled(runner: Any) -> bool:
        return vars(runner).get(_FLAG, False) or getattr(vars(runner).get("model"), "carries_positions", False)

    def store(runner: Any, value: bool) -> None:
        vars(runner)[_FLAG] = value

    setattr(CPUModelRunner, _FLAG, property(enabled, store))
