"""Models with positions (time, height, width): every token that stays keeps its own.

A prompt's text has the positions that it has without pruning, whichever tokens stay. So KV blocks behind an image are
right for every later prompt that finds them in the prefix cache. The tokens of an image get their positions when they
are placed: each row of an embedding carries its own, as further columns.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import zip_longest
from typing import Any

import torch
from torch import Tensor
from vllm.exceptions import VLLMValidationError
from vllm.multimodal.inputs import MultiModalFeatureSpec, MultiModalFieldElem, MultiModalKwargsItem, PlaceholderRange
from vllm.platforms import current_platform

from .cpu_runner import make_cpu_runner_ask
from .digits import DIGITS, decoded, encoded
from .engine import ENABLES_POSITIONS
from .model import PruningModel
from .options import MODALITIES, OPTION
from .processor import UNPRUNED, PruningProcessor

COLUMNS = 5 * DIGITS  # of a row: its t, h and w, its number among the kept rows of its item, and how many these are
_DATA = {"image": ("image_grid_thw",), "video": ("video_grid_thw", "second_per_grid_ts", "timestamps")}


class SpatialProcessor(PruningProcessor):
    """Refuses prompts in which an item's place cannot be told from the tokens."""

    def apply(self, inputs: Any, timing_ctx: Any) -> Any:
        """Processes a request, as vLLM's processor does."""
        if inputs.hf_processor_mm_kwargs is not UNPRUNED:
            # Before processing, which would leave what is refused in one of vLLM's two caches.
            config = self.info.get_hf_config()
            items = {config.image_token_id, config.video_token_id}
            pairs = zip_longest(inputs.prompt, inputs.prompt[1:])
            if any(token in items and (following is None or following in items) for token, following in pairs):
                raise VLLMValidationError(
                    f"{OPTION}: expected text after every image and video, got none", parameter="prompt"
                )
        return super().apply(inputs, timing_ctx)  # type: ignore[misc]


class SpatialPositions(PruningModel):
    """Mixin in front of a model of vLLM with M-RoPE.

    Source: Wang et al., Qwen2-VL, arXiv 2409.12191, section 2.1 (multimodal rotary positions).
    """

    config: Any
    carries_positions = False  # whether rows have the columns, and the runner has to ask for positions

    def _prepare(self, vllm_config: Any) -> None:
        vllm_config.model_config.get_multimodal_config().video_pruning_rate = ENABLES_POSITIONS
        if current_platform.is_cpu():
            make_cpu_runner_ask()

    def __init__(self, *, vllm_config: Any, prefix: str = "") -> None:
        super().__init__(vllm_config=vllm_config, prefix=prefix)
        if self.prunes:
            self.carries_positions = True
            self.supports_multimodal_pruning = True
            self.is_multimodal_pruning_enabled = False  # vLLM's own: no columns of its own, no rows dropped

    def _gathered(
        self, embeddings: Sequence[Tensor], rows: Sequence[Tensor], kwargs: Mapping[str, Any]
    ) -> Iterator[Tensor]:
        items = zip(embeddings, rows, self._items(kwargs), strict=True)
        for embedding, kept, (modality, data) in items:
            placed, positions = self._placed(embedding, kept, modality, data)
            numbers = torch.arange(len(placed), device=placed.device)
            numbers = torch.stack([numbers, torch.full_like(numbers, len(placed))], dim=1)
            yield torch.cat([placed, encoded(torch.cat([positions, numbers], dim=1), placed.dtype)], dim=1)

    def _of_items(self, kwargs: Mapping[str, Any], first: int, last: int) -> dict[str, Any]:
        merge = self.config.vision_config.spatial_merge_size
        (grids,) = (value for name, value in kwargs.items() if name.endswith("_grid_thw"))
        patches = grids.prod(-1).tolist()
        start, end = sum(patches[:first]), sum(patches[:last])
        rows = {"pixel": slice(start, end), "embeds": slice(start // merge**2, end // merge**2)}
        return {
            name: value[rows.get(name.partition("_")[0], rows.get(name.rpartition("_")[2], slice(first, last)))]
            for name, value in kwargs.items()
        }

    def _placed(self, embedding: Tensor, kept: Tensor, modality: str, data: Any) -> tuple[Tensor, Tensor]:
        """The rows of an item that go to the language model, and their (t, h, w) from its start, int64 ``[k, 3]``."""
        return embedding[kept], self._positions(modality, data).to(kept.device)[kept]

    def _items(self, kwargs: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
        """The modality of each item, and its sizes, in the form in which vLLM's model reads them."""
        for name in kwargs:  # in the order of embedding
            modality = name.partition("_")[0]
            if modality not in MODALITIES or name != f"{modality}_grid_thw":
                continue
            columns = {name: kwargs[name] for name in _DATA[modality] if kwargs.get(name) is not None}
            for row in range(len(kwargs[name])):
                elements = {
                    name: MultiModalFieldElem(data=values[row], field=None)  # type: ignore[arg-type]
                    for name, values in columns.items()
                }
                yield modality, MultiModalKwargsItem(elements)

    def _layout(self, modality: str, data: Any) -> list[int]:
        """The tokens of an item's place in an unpruned prompt."""
        merge = self.config.vision_config.spatial_merge_size
        count = int(data[f"{modality}_grid_thw"].data.prod()) // merge**2
        return [getattr(self.config, f"{modality}_token_id")] * count

    def _positions(self, modality: str, data: Any) -> Tensor:
        """The (t, h, w) of the tokens of an item's layout, from its start, int64 ``[n, 3]``."""
        layout = self._layout(modality, data)
        place = PlaceholderRange(offset=0, length=len(layout))
        feature = MultiModalFeatureSpec(data=data, modality=modality, identifier="", mm_position=place)
        positions, _ = super().get_mrope_input_positions(layout, [feature])  # type: ignore[misc]
        return positions.T

    def get_mrope_input_positions(self, input_tokens: list[int], mm_features: list[Any]) -> tuple[Tensor, int]:
        """The positions of a prompt: final for all text, and for items that keep every token.

        The other items are filled in by ``recompute_mrope_positions``.
        """
        if not self.prunes or not mm_features:
            return super().get_mrope_input_positions(input_tokens, mm_features)  # type: ignore[misc]
        tokens: list[int] = []
        moved = []
        end = 0
        features = sorted(mm_features, key=lambda feature: feature.mm_position.offset)
        for feature in features:
            place = feature.mm_position
            tokens += input_tokens[end : place.offset]
            layout = self._layout(feature.modality, feature.data)
            moved.append(replace(feature, mm_position=PlaceholderRange(offset=len(tokens), length=len(layout))))
            tokens += layout
            end = place.offset + place.length
        tokens += input_tokens[end:]
        unpruned, _ = super().get_mrope_input_positions(tokens, moved)  # type: ignore[misc]
        pieces = []
        end = 0
        for feature, whole in zip(features, moved, strict=True):
            start, length = whole.mm_position.offset, whole.mm_position.length
            pieces.append(unpruned[:, end:start])
            kept = feature.mm_position.length
            end = start + length
            pieces.append(unpruned[:, start:end] if kept == length else unpruned[:, start : start + 1].expand(-1, kept))
        positions = torch.cat([*pieces, unpruned[:, end:]], dim=1)
        return positions, self._delta(positions)

    def _delta(self, positions: Tensor) -> int:
        """What generated tokens add to their number: the last token of a prompt is text."""
        return int(positions[0, -1]) + 1 - positions.shape[1]

    def recompute_mrope_positions(
        self,
        input_ids: list[int] | Tensor,
        multimodal_embeddings: Sequence[Tensor],
        mrope_positions: Tensor,
        num_computed_tokens: int,
    ) -> tuple[Sequence[Tensor], Tensor, int]:
        """Puts the positions that rows carry where the rows go.

        Args:
            input_ids: the whole prompt, ``[L]``.
            multimodal_embeddings: rows of consecutive items, or parts of them, ``[rows, D + COLUMNS]`` each.
            mrope_positions: those of the prompt, int64 ``[3, L]``.
            num_computed_tokens: the first of these rows is at this place or later.

        Returns:
            The embeddings without the columns, the positions, and what generated tokens add to their number.
        """
        if not self.prunes:
            return super().recompute_mrope_positions(  # type: ignore[misc]
                input_ids, multimodal_embeddings, mrope_positions, num_computed_tokens
            )
        if not len(multimodal_embeddings):
            return multimodal_embeddings, mrope_positions, self._delta(mrope_positions)
        positions = mrope_positions.clone()
        runs = iter(self._runs(input_ids))
        for embedding in multimodal_embeddings:
            numbers = decoded(embedding[:, -COLUMNS:]).to(positions.device)
            first, total = numbers[0, 3:].tolist()
            # A drafter looks one token ahead: its rows may start behind an item that is computed. If both have a single
            # row, the first gets the positions of the second then: for a draft, not for an answer.
            fitting = (start for start, end in runs if start + first >= num_computed_tokens and end - start == total)
            start = next(fitting, None)
            if start is None:
                raise RuntimeError(
                    f"{OPTION}: expected a place of {total} tokens in the prompt for rows from token "
                    f"{num_computed_tokens} on, got none"
                )
            base = positions[:, start - 1 : start] + 1 if start else 0
            positions[:, start + first : start + first + len(numbers)] = numbers[:, :3].T + base
        return [embedding[:, :-COLUMNS] for embedding in multimodal_embeddings], positions, self._delta(positions)

    def _runs(self, input_ids: list[int] | Tensor) -> list[tuple[int, int]]:
        """Where the items of a prompt start and end."""
        ids = torch.as_tensor(input_ids)
        placeholders = (ids == self.config.image_token_id) | (ids == self.config.video_token_id)
        edges = torch.nn.functional.pad(placeholders.int(), (1, 1)).diff().nonzero().flatten().tolist()
        return list(zip(edges[::2], edges[1::2], strict=True))
