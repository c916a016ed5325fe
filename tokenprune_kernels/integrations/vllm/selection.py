"""Which rows stay of the images and videos that a model has encoded."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, groupby
from typing import Any

import torch
from torch import Tensor

from ...importance import norm
from ...vision_selector import VisionSelectorScorer
from ..row_selection import select_rows
from .item import Item
from .options import OPTION, Options
from .remembered import RememberedRows

Rows = list[Tensor]


class RowSelection:
    """Selects rows, remembers them, and makes sure that every rank has the same."""

    def __init__(self, options: Options, width: int, group: Any = None) -> None:
        """Loads the scorer, if the options name one.

        Args:
            options: of the engine.
            width: D, the number of features of the tokens.
            group: vLLM's group of ranks that encode together; the first one's selection counts.

        Raises:
            ValueError: for a scorer of tokens with another number of features.
        """
        self._remembered = RememberedRows()
        self._group = group
        self._scorer: VisionSelectorScorer | None = None
        if "scorer" in options.scorer:
            self._scorer = VisionSelectorScorer.from_pretrained(
                options.scorer["scorer"],
                prefix=options.scorer.get("scorer_prefix", ""),
                revision=options.scorer.get("scorer_revision"),
            ).requires_grad_(False)
            if self._scorer.q_proj.in_features != width:
                raise ValueError(
                    f"{OPTION}: expected scorer to have weights for tokens with {width} features, got those for "
                    f"{self._scorer.q_proj.in_features} from {options.scorer['scorer']}"
                )

    def forget(self) -> None:
        """Forgets the rows of all items."""
        self._remembered = RememberedRows()

    def __call__(self, items: Sequence[Item], tokens: Sequence[Tensor], attention: Sequence[Tensor]) -> list[Tensor]:
        """Returns the rows that stay of each item, ascending, int64 ``[k_i]``.

        Args:
            items: how each is pruned.
            tokens: what the encoder made of each, ``[n_i, D]``.
            attention: of the class token to them, float32 ``[n_i]`` each; empty where no item is selected by it.
        """
        rows = [
            torch.arange(len(each), device=each.device) if item.keeps_all else self._remembered.get(item)
            for item, each in zip(items, tokens, strict=True)
        ]
        # An item that is twice among these is selected from once.
        unknown = {items[number]: number for number, known in enumerate(rows) if known is None}
        new: dict[Item, Tensor] = {}
        for _, same_call in groupby(sorted(unknown, key=_call), key=_call):
            group = list(same_call)
            numbers = [unknown[item] for item in group]
            weights = [attention[number] for number in numbers] if attention else None
            selected = self._select(group, [tokens[number] for number in numbers], weights)
            new |= zip(group, selected, strict=True)
        for item, chosen in new.items():
            self._remembered.add(item, chosen)
        return [new[item] if known is None else known for item, known in zip(items, rows, strict=True)]

    def _select(self, items: list[Item], tokens: list[Tensor], attention: list[Tensor] | None) -> list[Tensor]:
        """The rows of items with one method, by one operator."""
        first = items[0]
        x = torch.cat(tokens)
        weight = None
        if first.weight == "norm":
            weight = norm(x)
        elif first.weight == "cls_attention":
            assert attention is not None
            weight = torch.cat(attention)
        elif first.weight == "vision_selector":
            assert self._scorer is not None
            self._scorer.to(x.device)
            segments = [
                segment for each, item in zip(tokens, items, strict=True) for segment in each.split(item.counts)
            ]
            weight = torch.cat([self._scorer(segment) for segment in segments])
        counts = [count for item in items for count in item.counts]
        kept = [count for item in items for count in item.kept]
        indices = select_rows(x, counts, kept, first.method, weight, first.lam)
        if self._group is not None and self._group.world_size > 1:
            indices = self._group.broadcast(indices.contiguous(), src=0)
        starts = accumulate([0, *(sum(item.counts) for item in items)])
        split = indices.split([sum(item.kept) for item in items])
        return [rows.sort().values - start for start, rows in zip(starts, split, strict=False)]


def _call(item: Item) -> tuple[str, str, float]:
    """What the items of one call of an operator have in common."""
    return item.method, item.weight or "", -1.0 if item.lam is None else item.lam
