"""The questions about held-out scenes, answered with every method at every share of the tokens."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bench.accuracy import model, questions, scenes, scorer, words
from bench.accuracy.features import HELD_OUT, Features, opened
from bench.accuracy.methods import DOWNSAMPLED, FASTV, FASTV_LAST, FASTV_LAYERS, VTW, Method, Ready, methods, vtw_layers
from bench.accuracy.questions import Question
from bench.accuracy.settings import Settings
from tokenprune_kernels.analysis.progress import Progress
from tokenprune_kernels.calls import kept_count

CHUNK = 50  # scenes
MOST_NEW_TOKENS = scenes.DIGITS[1] + 2
"""One more than any right answer and its end have."""


@dataclass(frozen=True)
class Cell:
    """A method at a share of the tokens, and where its answers are kept."""

    method: Method
    ratio: float

    @property
    def name(self) -> str:
        seed = "" if self.method.seed is None else f" {self.method.seed}"
        return re.sub(r"[^a-z0-9.]+", "-", f"{self.method.name}{seed} {self.ratio:g}".lower())


def cells(settings: Settings, learned: Callable[[Tensor], Tensor] | None = None) -> list[Cell]:
    """All of them, those of one method side by side; those of the trained scorer cannot run without it."""
    return [Cell(method, ratio) for method in methods(settings, learned) for ratio in method.ratios]


def asked(settings: Settings) -> list[list[Question]]:
    """The questions about each held-out scene, in the same order of tasks."""
    return [questions.asked(scenes.scene(scenes.material.HELD_OUT, n)) for n in range(settings.held_out_scenes)]


@dataclass(frozen=True)
class Prefix:
    """The beginning of prompts, which several questions about the same pictures have in common.

    Attributes:
        ids: token ids, ``[B, P]``.
        cache: the decoder's keys and values of them.
    """

    ids: Tensor
    cache: Any

    @classmethod
    def of(cls, made: Any, ready: Ready, question: int) -> Prefix:
        """That of inputs of ``generate``, without the tokens of the question."""
        length = ready["input_ids"].shape[1] - question
        cut = {
            name: each[:, :length] if name in ("input_ids", "attention_mask") else each for name, each in ready.items()
        }
        return cls(cut["input_ids"], made(**cut, use_cache=True, logits_to_keep=1).past_key_values)

    def ready(self, question: Tensor) -> Ready:
        """The inputs of ``generate`` for a question, ``[B, Q]``."""
        ids = torch.cat([self.ids, question], dim=1)
        cache = copy.deepcopy(self.cache)  # `generate` adds to it
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "past_key_values": cache}


@torch.no_grad()
def answered(made: Any, cell: Cell, store: Features, given: Sequence[Sequence[Question]]) -> dict[str, Any]:
    """The answers of a cell, and how many visual tokens the decoder saw.

    Args:
        made: the model; its tower is replaced for the time of the call.
        cell: the method and the share.
        store: the features of the scenes.
        given: the questions about each scene.
    """
    real = made.model.vision_tower
    made.model.vision_tower = model.CachedTower(real, store)
    answers: list[list[str]] = [[] for _ in given]
    tokens = 0
    try:
        for start in range(0, len(given), CHUNK):
            numbers = range(start, min(start + CHUNK, len(given)))
            prefix: Prefix | None = None
            # The same question of every scene has the same length.
            for place in range(len(given[0])):
                inputs = model.inputs([given[n][place].text for n in numbers], numbers, store.part.tokens)
                question = inputs["input_ids"][:, 1 + store.part.tokens :]
                if prefix is None:
                    ready = cell.method.prepare(made, inputs, cell.ratio)
                    prefix = Prefix.of(made, ready, question.shape[1]) if cell.method.by_picture else None
                if prefix is not None:
                    ready = prefix.ready(question)
                with cell.method.during(made, inputs, cell.ratio):
                    output = made.generate(**ready, max_new_tokens=MOST_NEW_TOKENS, do_sample=False)
                tokens += int((ready["input_ids"] == made.config.image_token_id).sum())
                length = ready["input_ids"].shape[1]
                for number, ids in zip(numbers, output[:, length:].tolist(), strict=True):
                    answers[number].append(words.decode(ids))
    finally:
        made.model.vision_tower = real
    return {"answers": answers, "tokens": _seen(made, cell, tokens / sum(len(row) for row in given))}


def _seen(made: Any, cell: Cell, in_prompt: float) -> float:
    """The visual tokens of a prompt, averaged over the decoder's layers."""
    layers = made.config.text_config.num_hidden_layers
    if cell.method.name in (FASTV, FASTV_LAST):
        k = kept_count("accuracy", round(in_prompt), cell.ratio)
        return (FASTV_LAYERS * in_prompt + (layers - FASTV_LAYERS) * k) / layers
    if cell.method.name == VTW:
        return in_prompt * vtw_layers(cell.ratio, layers) / layers
    return in_prompt


def run(settings: Settings, folder: Path) -> dict[str, dict[str, Any]]:
    """The answers of every cell, by its name; those that are kept already are read."""
    kept = folder / "answers"
    kept.mkdir(parents=True, exist_ok=True)
    stores, given = opened(settings, folder), asked(settings)
    checkpoint = folder / "checkpoint"
    if not checkpoint.exists():
        raise ValueError("evaluate: expected a checkpoint, got none; `python -m bench accuracy train` makes it")
    made, learned = model.load(checkpoint), scorer.load(folder)
    digest = model.digest(made)
    found = {}
    every = cells(settings, learned)
    with Progress(len(every)) as progress:
        for cell in every:
            progress.step(f"evaluation: {cell.method.name} at {cell.ratio:g}")
            file = kept / f"{cell.name}.json"
            made_here = json.loads(file.read_text()) if file.exists() else {}
            if made_here.get("sha256") != digest:
                store = stores[f"held-out-{cell.ratio:g}" if cell.method.name == DOWNSAMPLED else HELD_OUT]
                made_here = {"sha256": digest, **answered(made, cell, store, given)}
                partial = file.with_suffix(".partial")
                partial.write_text(json.dumps(made_here))
                partial.replace(file)
            found[cell.name] = made_here
    return found
