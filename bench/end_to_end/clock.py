"""Times on a device, of calls and of the layers that a truncated model has."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from time import perf_counter
from typing import Any

import torch
from torch import nn

from bench.times import Times

SHORT_SAMPLES = 5
SHORT_SAMPLE_MILLISECONDS = 20.0
MOST_CALLS = 50


def milliseconds(device: str) -> float:
    """The time when the device has done all that it was given."""
    if device == "cuda":
        torch.cuda.synchronize()
    return 1e3 * perf_counter()


def short_times(call: Callable[[], object], device: str) -> Times:
    """Times of something short; each sample is the mean of calls in a row, which the device may overlap."""
    call()

    def sample(calls: int) -> float:
        start = milliseconds(device)
        for _ in range(calls):
            call()
        return (milliseconds(device) - start) / calls

    calls = min(MOST_CALLS, 1 + int(SHORT_SAMPLE_MILLISECONDS / max(sample(1), 1e-3)))
    return Times.of([sample(calls) for _ in range(SHORT_SAMPLES)])


def stands_for(kept: Sequence[str], whole: Sequence[str]) -> list[float]:
    """How many layers of the whole stack each kept one stands for, by their kinds."""
    return [whole.count(kind) / kept.count(kind) for kind in kept]


class LayerClock:
    """Extrapolates the time of the layers that the truncated model lacks.

    ``missing`` is in milliseconds, since the last ``start``. The device is waited for before and after each layer.
    """

    def __init__(self, device: str) -> None:
        self._device = device
        self._running = False
        self._entered = 0.0
        self.missing = 0.0

    def start(self) -> None:
        self._running = True
        self.missing = 0.0

    def stop(self) -> None:
        self._running = False

    @contextlib.contextmanager
    def watching(self, layers: nn.ModuleList, counts: Sequence[float]) -> Iterator[None]:
        """Watches layers, each of which stands for ``count`` layers; one that stands for itself has no hook."""
        hooks = []
        for layer, count in zip(layers, counts, strict=True):
            if count != 1:
                hooks.append(layer.register_forward_pre_hook(self._enter))
                hooks.append(layer.register_forward_hook(self._leaving(count)))
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def _enter(self, *_: Any) -> None:
        if self._running:
            self._entered = milliseconds(self._device)

    def _leaving(self, count: float) -> Callable[..., None]:
        def leave(*_: Any) -> None:
            if self._running:
                self.missing += (count - 1) * (milliseconds(self._device) - self._entered)

        return leave
