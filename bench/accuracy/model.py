"""The vision-language model: LLaVA's recipe in small, in LLaVA's own class of transformers."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutputWithPooling

from bench.accuracy import scenes, tower, words
from bench.accuracy.features import Features
from bench.accuracy.settings import Settings

SEED = 0


def configuration(settings: Settings) -> transformers.LlavaConfig:
    """The tower, a projector of two layers, and a decoder of Llama's design."""
    text = transformers.LlamaConfig(
        vocab_size=len(words.WORDS),
        hidden_size=settings.hidden_size,
        intermediate_size=settings.intermediate_size,
        num_hidden_layers=settings.layers,
        num_attention_heads=settings.heads,
        num_key_value_heads=settings.heads,
        max_position_embeddings=1_024,
        # The default is for widths of thousands: in a narrow decoder, queries and keys would begin near zero.
        initializer_range=settings.hidden_size**-0.5,
        pad_token_id=words.NUMBERS[words.PAD],
        bos_token_id=words.NUMBERS[words.BEGIN],
        eos_token_id=words.NUMBERS[words.END],
    )
    return transformers.LlavaConfig(
        vision_config=tower.configuration(settings),
        text_config=text,
        image_token_index=words.NUMBERS[words.IMAGE],
        image_seq_length=(settings.side // tower.PATCH) ** 2,
        vision_feature_layer=list(tower.feature_layers(settings)),
        vision_feature_select_strategy="default",
    )


def untrained(settings: Settings) -> transformers.LlavaForConditionalGeneration:
    """The model before training: the tower's weights, and seeded ones."""
    torch.manual_seed(SEED)
    made = transformers.LlavaForConditionalGeneration(configuration(settings)).float()
    made.model.vision_tower.load_state_dict(tower.tower(settings).state_dict())
    made.model.vision_tower.requires_grad_(False)
    return made


def trained_parameters(made: transformers.LlavaForConditionalGeneration) -> dict[str, nn.Parameter]:
    """The parameters that training changes: all but the tower's, by name."""
    return {name: each for name, each in made.named_parameters() if not name.startswith("model.vision_tower.")}


def joined(states: Tensor) -> Tensor:
    """What the projector takes of hidden states ``[B, 2, 1 + patches, D]``: ``[B, patches, 2 D]``."""
    return torch.cat(states.unbind(1), dim=-1)[:, 1:]


def digest(parameters: Mapping[str, Tensor]) -> str:
    """A sha256 of parameters, whatever file they are in."""
    found = hashlib.sha256()
    for name, each in sorted(parameters.items()):
        found.update(name.encode())
        found.update(each.detach().contiguous().numpy().tobytes())
    return found.hexdigest()


def processor(settings: Settings) -> Any:
    """What makes the model's inputs of a chat with a picture, for checkpoints."""
    # Of two image processors, the one that needs no torchvision.
    image_processor = getattr(transformers, "CLIPImageProcessorPil", None) or transformers.CLIPImageProcessor
    side = {"height": settings.side, "width": settings.side}
    pixels = image_processor(
        do_resize=settings.side != scenes.SIDE,
        size=side,
        resample=1,  # Pillow's number of LANCZOS
        do_center_crop=False,
        image_mean=list(tower.MEAN),
        image_std=list(tower.STANDARD_DEVIATION),
    )
    return transformers.LlavaProcessor(
        image_processor=pixels,
        tokenizer=words.tokenizer(),
        patch_size=tower.PATCH,
        vision_feature_select_strategy="default",
        image_token=words.IMAGE,
        num_additional_image_tokens=1,
        chat_template=words.CHAT_TEMPLATE,
    )


def save(made: transformers.LlavaForConditionalGeneration, settings: Settings, folder: Path) -> None:
    """Writes a checkpoint as those that users have, with its processor."""
    made.generation_config = transformers.GenerationConfig(
        do_sample=False,
        max_new_tokens=8,
        pad_token_id=words.NUMBERS[words.PAD],
        bos_token_id=words.NUMBERS[words.BEGIN],
        eos_token_id=words.NUMBERS[words.END],
    )
    made.save_pretrained(folder)
    processor(settings).save_pretrained(folder)


def load(folder: Path) -> transformers.LlavaForConditionalGeneration:
    """The model of a checkpoint, ready to answer."""
    return transformers.LlavaForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()


class CachedTower(nn.Module):
    """Stands for the vision tower. Its pixel values are the numbers of scenes, ``[B, 1]``, whose features are kept.

    Everything behind the tower runs as it is, class attention too: the real tower's parameters are still there.
    """

    def __init__(self, real: nn.Module, features: Features) -> None:
        super().__init__()
        self.real = real
        self.features = features

    @property
    def dtype(self) -> torch.dtype:
        return torch.float32

    def forward(self, pixel_values: Tensor, **_: Any) -> BaseModelOutputWithPooling:
        """The hidden states that are kept; None stands for the others."""
        kept = self.features.read(pixel_values.flatten().tolist())
        depth = self.real.config.num_hidden_layers
        states: list[Tensor | None] = [None] * (depth + 1)
        for place, state in zip(self.features.part.places, kept.unbind(1), strict=True):
            states[place] = state
        return BaseModelOutputWithPooling(hidden_states=tuple(states))


def inputs(questions: Sequence[str], numbers: Sequence[int], image_tokens: int) -> dict[str, Tensor]:
    """The inputs of questions of one length, each about a scene, for a model with a ``CachedTower``."""
    ids = torch.tensor([words.prompt(question, image_tokens) for question in questions])
    return {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "pixel_values": torch.tensor(numbers).unsqueeze(1),
    }
