"""Qwen3-VL: rows with the features of deeper layers, and videos with a timestamp before each frame."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from vllm.model_executor.models.qwen3_vl import Qwen3VLForConditionalGeneration, Qwen3VLMultiModalProcessor
from vllm.multimodal.processing import PromptUpdateDetails

from .mrope import SpatialPositions, SpatialProcessor
from .processor import pruned

get_video_repl = Qwen3VLMultiModalProcessor.get_video_repl  # here, so that an import fails where it is not there


class Qwen3Processor(SpatialProcessor):
    """Gives a video one run of placeholders, as its frames' shares of the kept tokens are not known yet."""

    def _embedded(self, content: Any, modality: str) -> Tensor:
        if modality != "video":
            return super()._embedded(content, modality)
        return torch.tensor(content.full) == self.info.get_hf_config().video_token_id

    def _placeholder(self, content: Any, modality: str, embedded: Tensor, stays: Tensor) -> Any:
        """A video's run stands for its timestamps too: the model embeds them among the kept tokens."""
        if modality != "video":
            return super()._placeholder(content, modality, embedded, stays)
        length = len(embedded) - int((~stays).sum())
        return PromptUpdateDetails(full=[self.info.get_hf_config().video_token_id] * length)


@pruned(Qwen3Processor)
class PrunedQwen3VL(SpatialPositions, Qwen3VLForConditionalGeneration):
    """Qwen3-VL."""

    leans_on = ("_tokenizer", "visual_dim")
    drafters_read_images = False  # vLLM would hand them the features of deeper layers too

    def _tokens(self, embedding: Tensor) -> Tensor:
        return embedding[:, : self.visual_dim]

    def _layout(self, modality: str, data: Any) -> list[int]:
        if modality != "video":
            return super()._layout(modality, data)
        frames, height, width = data["video_grid_thw"].data.tolist()
        merge = self.config.vision_config.spatial_merge_size
        details = get_video_repl(
            tokens_per_frame=[height * width // merge**2] * frames,
            timestamps=data["timestamps"].data,
            tokenizer=self._tokenizer,
            vision_start_token_id=self.config.vision_start_token_id,
            vision_end_token_id=self.config.vision_end_token_id,
            video_token_id=self.config.video_token_id,
        )
        return details.full

    def _placed(self, embedding: Tensor, kept: Tensor, modality: str, data: Any) -> tuple[Tensor, Tensor]:
        if modality != "video":
            return super()._placed(embedding, kept, modality, data)
        layout = torch.tensor(self._layout(modality, data))
        is_token = layout == self.config.video_token_id
        text_places, token_places = (mask.nonzero().squeeze(1).to(kept.device) for mask in (~is_token, is_token))
        text = self.get_language_model().embed_input_ids(layout[~is_token].to(kept.device))
        text = torch.nn.functional.pad(text, (0, embedding.shape[1] - text.shape[1]))
        places, order = torch.cat([text_places, token_places[kept]]).sort()
        return torch.cat([text, embedding[kept]])[order], self._positions(modality, data).to(kept.device)[places]
