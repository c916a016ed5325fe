"""Counters beside vLLM's own, in the process that prepares requests."""

from __future__ import annotations

from functools import cache
from typing import Any


def count_tokens(modality: str, tokens: int, kept: int) -> None:
    """Counts the tokens that an image or video has, and those that it keeps; again when it comes from no cache."""
    for counter, number in zip(_counters(), (tokens, kept), strict=True):
        counter.labels(modality).inc(number)


@cache
def _counters() -> tuple[Any, Any]:
    from prometheus_client import Counter

    return (
        Counter(
            "tokenprune_tokens", "Visual tokens that the encoder makes of processed images and videos", ["modality"]
        ),
        Counter("tokenprune_kept_tokens", "Visual tokens that pruning keeps of them", ["modality"]),
    )
