"""The model: any supported family of transformers behind lmms-eval's interface."""

from __future__ import annotations

from typing import Any

import torch
import transformers
from lmms_eval.api.instance import GenerationResult, TokenCounts
from lmms_eval.api.model import lmms
from lmms_eval.protocol import ChatMessages

from ...analysis.progress import Progress
from ..transformers import enable_pruning
from ..transformers.families import family_of
from ..transformers.qwen_vl import QwenVL
from .options import DOWNSAMPLE, downsampled_size, pruning_options

_DEFAULTS = {"max_new_tokens": 1024, "temperature": 0.0, "top_p": None, "num_beams": 1}


class Tokenprune(lmms):  # type: ignore[misc]
    """A vision-language model whose visual tokens are pruned before the language model's first layer.

    Args:
        pretrained: the checkpoint, a folder or a name on the Hub.
        method: ``"divprune"``, ``"idpruner"``, ``"mmr"`` or ``"dpp"``; ``"none"``; ``"random"``; or ``"downsample"``,
            which shrinks each picture to a share of its pixels instead, for models whose tokens follow the picture's
            size.
        k: as in ``enable_pruning``.
        keep_ratio: as in ``enable_pruning``; of ``"downsample"``, the share of the pixels.
        importance: as in ``enable_pruning``, by name.
        relevance: likewise.
        lam: as in ``enable_pruning``.
        positions: likewise.
        seed: of ``"random"``.
        dtype: of the weights; ``"auto"`` is that of the checkpoint.
        device: where the model runs; by default a GPU if there is one.
        batch_size: how many questions are answered at once.
        attn_implementation: of transformers.
        max_pixels: of the processor, for models whose tokens follow the picture's size.
        trust_remote_code: of transformers.
    """

    is_simple = False

    def __init__(
        self,
        pretrained: str,
        method: str = "divprune",
        k: int | None = None,
        keep_ratio: float | None = None,
        importance: str | None = None,
        relevance: str | None = None,
        lam: float | None = None,
        positions: str | None = None,
        seed: int = 0,
        dtype: str = "auto",
        device: str | None = None,
        batch_size: int | str = 1,
        attn_implementation: str | None = None,
        max_pixels: int | None = None,
        trust_remote_code: bool = False,
    ) -> None:
        super().__init__()
        options = pruning_options(method, k, keep_ratio, importance, relevance, lam, positions, seed)
        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        settings = {} if attn_implementation is None else {"attn_implementation": attn_implementation}
        loaded: Any = transformers.AutoModelForImageTextToText.from_pretrained(
            pretrained, dtype=dtype, trust_remote_code=trust_remote_code, **settings
        )
        self._model = loaded.to(device).eval()
        pixels = {} if max_pixels is None else {"max_pixels": max_pixels}
        self._processor = transformers.AutoProcessor.from_pretrained(
            pretrained, trust_remote_code=trust_remote_code, **pixels
        )
        self._processor.tokenizer.padding_side = "left"
        self.batch_size_per_gpu = int(batch_size)
        self._share_of_pixels = keep_ratio if method == DOWNSAMPLE else None
        if method == DOWNSAMPLE:
            downsampled_size(1, 1, keep_ratio)
            if not isinstance(family_of(self._model), QwenVL):
                raise ValueError(
                    "tokenprune: expected a model whose tokens follow the picture's size with method 'downsample', "
                    f"got {type(self._model).__name__}"
                )
        if options is not None:
            enable_pruning(self._model, **options)

    @property
    def model(self) -> Any:
        """The model of transformers."""
        return self._model

    @property
    def batch_size(self) -> int:
        """How many questions are answered at once."""
        return self.batch_size_per_gpu

    def generate_until(self, requests: list[Any]) -> list[Any]:
        """Answers requests, each ``(context, doc_to_messages, generation arguments, document, task, split)``."""
        answers: list[Any] = [None] * len(requests)
        groups: dict[str, list[int]] = {}
        for number, request in enumerate(requests):
            groups.setdefault(str(request.args[2]), []).append(number)
        chunks = [
            numbers[start : start + self.batch_size]
            for numbers in groups.values()
            for start in range(0, len(numbers), self.batch_size)
        ]
        with Progress(len(chunks)) as progress:
            for numbers in chunks:
                progress.step("answering")
                for number, answer in zip(numbers, self._answered([requests[n].args for n in numbers]), strict=True):
                    answers[number] = answer
                    self.cache_hook.add_partial(
                        "generate_until", (requests[number].args[0], requests[number].args[2]), answer.text
                    )
        return answers

    @torch.no_grad()
    def _answered(self, requests: list[tuple[Any, ...]]) -> list[Any]:
        """The answers to requests with the same generation arguments."""
        messages = [
            ChatMessages(messages=to_messages(self.task_dict[task][split][document]))
            for _, to_messages, _, document, task, split in requests
        ]
        images, videos = ([medium for each in messages for medium in each.extract_media()[kind]] for kind in (0, 1))
        texts = [
            self._processor.apply_chat_template(each.to_hf_messages(), tokenize=False, add_generation_prompt=True)
            for each in messages
        ]
        media = {"images": [self._shrunk(image) for image in images], "videos": videos}
        inputs = self._processor(
            text=texts, padding=True, return_tensors="pt", **{name: given for name, given in media.items() if given}
        ).to(self._model.device, self._model.dtype)
        asked = dict(requests[0][2])
        stops = asked.pop("until", None) or []
        wanted = {name: asked.get(name, default) for name, default in _DEFAULTS.items()}
        samples = bool(wanted["temperature"])
        sampling = {"temperature": wanted["temperature"], "top_p": wanted["top_p"]} if samples else {}
        output = self._model.generate(
            **inputs,
            do_sample=samples,
            num_beams=wanted["num_beams"],
            max_new_tokens=wanted["max_new_tokens"],
            pad_token_id=self._processor.tokenizer.pad_token_id,
            **sampling,
        )
        new = output[:, inputs["input_ids"].shape[1] :]
        answers = self._processor.batch_decode(new, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return [
            GenerationResult(text=_until(text, stops), token_counts=TokenCounts(output_tokens=new.shape[1]))
            for text in answers
        ]

    def _shrunk(self, image: Any) -> Any:
        if self._share_of_pixels is None:
            return image
        width, height = image.size
        return image.resize(downsampled_size(width, height, self._share_of_pixels))

    def loglikelihood(self, requests: list[Any]) -> Any:
        """Refuses: a prompt with an answer in it is not pruned as a question is."""
        raise NotImplementedError("tokenprune: expected tasks with output_type generate_until, got loglikelihood")

    def generate_until_multi_round(self, requests: list[Any]) -> Any:
        """Refuses."""
        raise NotImplementedError(
            "tokenprune: expected tasks with output_type generate_until, got generate_until_multi_round"
        )


def _until(text: str, stops: str | list[str]) -> str:
    """A text up to the first stop in it."""
    for stop in [stops] if isinstance(stops, str) else stops:
        text = text.partition(stop)[0] if stop else text
    return text
