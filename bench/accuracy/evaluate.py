"""The questions about held-out scenes, answered with every method at every share of the tokens."""

from __future__ import annotations

import copy
import json
import multiprocessing
import queue
import re
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bench.accuracy import model, questions, scenes, scorer, words
from bench.accuracy.features import HELD_OUT, Features, chunks, opened
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
        for numbers in chunks(range(len(given)), CHUNK):
            prefix: Prefix | None = None
            # The same question of every scene has the same length.
            for place in range(len(given[0])):
                inputs = model.inputs([given[n][place].text for n in numbers], numbers, store.part.tokens)
                question = inputs["input_ids"][:, 1 + store.part.tokens :]
                if prefix is None:  # none of this picture, or what it would begin with is padded
                    ready = cell.method.prepare(made, inputs, cell.ratio)
                    if cell.method.by_picture and bool(ready["attention_mask"].all()):
                        prefix = Prefix.of(made, ready, question.shape[1])
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


class Answering:
    """What it takes to answer any cell.

    Args:
        settings: sizes and seeds.
        folder: of the features, the checkpoint and the answers.
    """

    def __init__(self, settings: Settings, folder: Path) -> None:
        checkpoint = folder / "checkpoint"
        if not checkpoint.exists():
            raise ValueError("evaluate: expected a checkpoint, got none; `python -m bench accuracy train` makes it")
        scorer.read_log(folder)  # an error if it is not trained to its end, as it is after the checkpoint is written
        self.made, learned = model.load(checkpoint), scorer.load(folder)
        self.cells = cells(settings, learned)
        self._model = model.digest(model.trained_parameters(self.made))
        self._scorer = model.digest(learned.state_dict())
        self._kept = folder / "answers"
        self._kept.mkdir(parents=True, exist_ok=True)
        self._stores, self._given = opened(settings, folder), asked(settings)

    def _of(self, cell: Cell) -> list[str]:
        """What the answers of a cell depend on."""
        return [self._model, self._scorer] if cell.method.by_scorer else [self._model]

    def kept(self, cell: Cell) -> dict[str, Any] | None:
        """The answers of this model and scorer that are there already."""
        file = self._kept / f"{cell.name}.json"
        found: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
        return found if found.get("of") == self._of(cell) else None

    def answer(self, cell: Cell) -> None:
        """Answers a cell and keeps the answers."""
        store = self._stores[f"held-out-{cell.ratio:g}" if cell.method.name == DOWNSAMPLED else HELD_OUT]
        found = {"of": self._of(cell), **answered(self.made, cell, store, self._given)}
        file = self._kept / f"{cell.name}.json"
        partial = file.with_suffix(".partial")
        partial.write_text(json.dumps(found))
        partial.replace(file)


def _work(settings: Settings, folder: Path, left: Sequence[int], taken: Any, done: Any) -> None:
    """What a process of ``run`` does: it takes a cell that none has taken, until there is none."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the process that started this one ends it
    torch.set_num_threads(1)
    here = Answering(settings, folder)
    while True:
        with taken.get_lock():
            place = taken.value
            taken.value += 1
        if place >= len(left):
            return
        cell = here.cells[left[place]]
        here.answer(cell)
        done.put(f"{cell.method.name} at {cell.ratio:g}")


def run(settings: Settings, folder: Path) -> dict[str, dict[str, Any]]:
    """The answers of every cell, by its name; those that are kept already are read.

    There are as many processes as torch has threads, with one thread each: a decoder this small gains little from a
    second one. An interruption loses the cells that they are at.

    Raises:
        ValueError: if there is no checkpoint, or a process has ended.
    """
    here = Answering(settings, folder)
    left = [number for number, cell in enumerate(here.cells) if here.kept(cell) is None]
    spawned = multiprocessing.get_context("spawn")
    taken, done = spawned.Value("q", 0), spawned.Queue()
    processes = [
        spawned.Process(target=_work, args=(settings, folder, left, taken, done), daemon=True)
        for _ in range(min(torch.get_num_threads(), len(left)))
    ]
    try:
        for process in processes:
            process.start()
        with Progress(len(here.cells)) as progress:
            for _ in range(len(here.cells) - len(left)):
                progress.step("evaluation: goes on")
            for _ in left:
                progress.step(f"evaluation: {_next(done, processes)}")
    except BaseException:
        for process in processes:
            if process.pid is not None:  # it has been started
                process.terminate()
        raise
    for process in processes:
        process.join()
    return {cell.name: here.kept(cell) or {} for cell in here.cells}


def _next(done: Any, processes: Sequence[Any]) -> str:
    """The cell that is done next."""
    while True:
        ended = [process.exitcode for process in processes if process.exitcode is not None]
        try:
            found: str = done.get(timeout=1)
            return found
        except queue.Empty:
            if any(ended) or len(ended) == len(processes):
                raise ValueError("evaluate: expected its processes to go on, got one that has ended") from None
