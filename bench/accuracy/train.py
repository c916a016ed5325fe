"""The training of projector and decoder on the features of the frozen tower.

A step shows each picture once, followed by its questions side by side: a question sees the picture and itself, as when
it is asked alone, and starts at the position behind the picture. The loss is that of the answers. No token is dropped:
the model never sees a pruned picture before it is measured on some.

It goes from few tokens to many: the fewer there are, the sooner attention finds the one that a question is about. First
come the means over squares of tokens, as many as there are cells, then over smaller squares, then over rectangles of
many shapes, all tokens among them. So the decoder reads pictures of many resolutions, as those of users do, and does
not count on one number of tokens for a thing.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from bench.accuracy import model, questions, scenes, tower, words
from bench.accuracy.alignment import Alignment
from bench.accuracy.features import TRAINING, TUNING, Features, Part, opened
from bench.accuracy.questions import Question
from bench.accuracy.settings import Settings, Stage
from bench.accuracy.steps import Steps

SEED = 1
IGNORED = -100
WEIGHT_DECAY = 0.02
LOWEST_RATE = 0.02
"""The learning rate of the last step, as a share of the highest one."""
VALIDATE_EVERY = 200
LOG = "training-log.json"


class Packed:
    """Prompts and answers of several pictures, the questions about one picture side by side.

    Attributes:
        ids: token ids behind the pictures, ``[B, S]``.
        labels: the ids again where they are answers, else ``IGNORED``; each in the place that predicts it.
        positions: ``[B, image_tokens + 1 + S]``.
        mask: added to attention logits, ``[B, 1, L, L]``.
        tasks: of each label, ``[B, S]``, its number in ``names``, -1 where there is none.
        names: the tasks.
    """

    def __init__(self, asked: Sequence[Sequence[Question]], image_tokens: int) -> None:
        self.names = sorted({question.task for row in asked for question in row})
        prefix = 1 + image_tokens
        texts = [[self._one(question) for question in row] for row in asked]
        longest = max(sum(len(text) for text, _ in row) for row in texts)
        rows, length = len(asked), prefix + longest
        self.ids = torch.full((rows, longest), words.NUMBERS[words.PAD])
        self.labels = torch.full((rows, longest), IGNORED)
        self.tasks = torch.full((rows, longest), -1)
        self.positions = torch.arange(prefix).repeat(rows, 1)
        self.positions = torch.cat([self.positions, torch.full((rows, longest), prefix)], dim=1)
        visible = torch.zeros(rows, length, length, dtype=torch.bool)
        visible[:, :prefix, :prefix] = torch.ones(prefix, prefix, dtype=torch.bool).tril()
        visible |= torch.eye(length, dtype=torch.bool)  # padding sees itself, so that no row is empty
        for row, (given, made) in enumerate(zip(asked, texts, strict=True)):
            start = 0
            for question, (text, answer) in zip(given, made, strict=True):
                end, first = start + len(text), start + len(text) - answer
                self.ids[row, start:end] = torch.tensor(text)
                self.labels[row, first - 1 : end - 1] = self.ids[row, first:end]
                self.tasks[row, first - 1 : end - 1] = self.names.index(question.task)
                self.positions[row, prefix + start : prefix + end] += torch.arange(len(text))
                block = slice(prefix + start, prefix + end)
                visible[row, block, :prefix] = True
                visible[row, block, block] |= torch.ones(len(text), len(text), dtype=torch.bool).tril()
                start = end
        self.mask = torch.zeros(visible.shape).masked_fill(~visible, torch.finfo(torch.float32).min).unsqueeze(1)

    @staticmethod
    def _one(question: Question) -> tuple[list[int], int]:
        """The ids of a question and its answer, and how many of them are the answer's."""
        answer = [*words.encode(question.answer), words.NUMBERS[words.END]]
        return [*words.encode(f"{question.text} ?"), *answer], len(answer)


def logits(
    made: Any, states: Tensor, packed: Packed, change: Callable[[Tensor], Tensor] = lambda visual: visual
) -> Tensor:
    """What the model predicts behind the pictures, ``[B, S, words]``.

    Args:
        made: the model.
        states: the hidden states of the tower that it takes its tokens from, ``[B, 2, 1 + patches, D]``.
        packed: the questions.
        change: what is done to the visual tokens, ``[B, patches, D]``.
    """
    embed = made.get_input_embeddings()
    begin = embed(torch.full((len(states), 1), words.NUMBERS[words.BEGIN]))
    visual = made.model.multi_modal_projector(model.joined(states))
    embeddings = torch.cat([begin, change(visual), embed(packed.ids)], dim=1)
    output = made.model.language_model(
        inputs_embeds=embeddings, attention_mask=packed.mask, position_ids=packed.positions, use_cache=False
    )
    return made.lm_head(output.last_hidden_state[:, embeddings.shape[1] - packed.ids.shape[1] :])


def asked(step: int, part: Part, numbers: Sequence[int], tokens: int) -> Packed:
    """The questions of a step about some scenes, behind pictures of so many tokens."""
    rng = np.random.default_rng([SEED, step])
    given = [scenes.scene(part.split, part.first + number) for number in numbers]
    return Packed([questions.taught(each, rng) for each in given], tokens)


def pooled(visual: Tensor, height: int, width: int) -> Tensor:
    """The means over rectangles of so many of a square picture's tokens, ``[B, side * side, D]``."""
    side = math.isqrt(visual.shape[1])
    return F.avg_pool2d(visual.mT.unflatten(-1, (side, side)), (height, width)).flatten(2).mT


def answers_loss(predicted: Tensor, packed: Packed) -> Tensor:
    """The mean cross-entropy of the answers."""
    return F.cross_entropy(predicted.float().flatten(0, 1), packed.labels.flatten(), ignore_index=IGNORED)


class Training(Steps):
    """The training of projector and decoder up to some step, in a folder."""

    what = "training"

    def __init__(self, settings: Settings, folder: Path, made: Any) -> None:
        self.features = opened(settings, folder)
        self.model = made.train()
        parameters = model.trained_parameters(made)
        words_of = ("embed_tokens.weight", "lm_head.weight")
        inner = [name for name, each in parameters.items() if each.dim() == 2 and not name.endswith(words_of)]
        total = sum(stage.steps for stage in settings.stages)
        super().__init__(settings, folder / "training.pt", total, parameters, WEIGHT_DECAY, inner)

    def rate(self) -> float:
        """Linear warm-up, then a cosine down to ``LOWEST_RATE``."""
        warm_up = self.settings.warm_up
        done = max(0, self.step - warm_up) / max(1, self.total - warm_up)
        falling = LOWEST_RATE + (1 - LOWEST_RATE) * 0.5 * (1 + math.cos(math.pi * done))
        return self.settings.learning_rate * min((self.step + 1) / warm_up, falling)

    def stage(self, step: int) -> tuple[Stage, int]:
        """That of a step, and how many pictures of its size were shown before."""
        shown = {False: 0, True: 0}
        for each in self.settings.stages:
            if step < each.steps:
                break
            step -= each.steps
            shown[each.large] += each.steps * each.batch
        return each, shown[each.large] + step * each.batch

    def loss(self) -> Tensor:
        stage, shown = self.stage(self.step)
        store = self._store(stage)
        numbers = self._numbers(stage, shown)
        height, width = np.random.default_rng([SEED, self.step, 1]).choice(stage.pooled, 2).tolist()
        part = store.part
        packed = asked(self.step, part, numbers, (part.height // height) * (part.width // width))
        with self.products():
            predicted = logits(self.model, store.read(numbers), packed, lambda each: pooled(each, height, width))
        return answers_loss(predicted, packed)

    def _store(self, stage: Stage) -> Features:
        return self.features[TUNING if stage.large else TRAINING]

    def _numbers(self, stage: Stage, shown: int) -> list[int]:
        """The scenes of a step: epoch after epoch in a new order, without the last ones of the file."""
        count = self.settings.tuning_scenes if stage.large else self.settings.training_scenes
        orders: dict[int, Any] = {}
        numbers = []
        for place in range(shown, shown + stage.batch):
            epoch = place // count
            if epoch not in orders:
                orders[epoch] = np.random.default_rng([SEED, int(stage.large), epoch]).permutation(count)
            numbers.append(int(orders[epoch][place % count]))
        return numbers

    @torch.no_grad()
    def validated(self) -> dict[str, Any]:
        """The share of scenes that were kept aside on which all answers of a task are right, word by word.

        They are asked about with all tokens, and with as few as the stage has.
        """
        last, _ = self.stage(self.step - 1)
        if self.step % VALIDATE_EVERY and self.step < self.total and self.stage(self.step)[0] is last:
            return {}
        few, store = max(last.pooled), self._store(last)
        entry = {"side": store.part.height * tower.PATCH, "all tokens": self._right(store, 1)}
        return entry | ({f"squares of {few}": self._right(store, few)} if few > 1 else {})

    def _right(self, store: Features, patches: int) -> dict[str, float]:
        part, count = store.part, self.settings.validation_scenes
        rng = np.random.default_rng([SEED, 0])
        right: dict[str, list[bool]] = {}
        self.model.eval()
        for number in range(part.count - count, part.count):
            given = scenes.scene(part.split, part.first + number)
            packed = Packed([questions.taught(given, rng)], part.tokens // patches**2)
            predicted = logits(self.model, store.read([number]), packed, lambda each: pooled(each, patches, patches))
            found = predicted.argmax(-1) == packed.labels
            for task, name in enumerate(packed.names):
                right.setdefault(name, []).append(bool(found[packed.tasks == task].all()))
        self.model.train()
        return {name: round(sum(each) / len(each), 3) for name, each in right.items()}


def run(settings: Settings, folder: Path) -> dict[str, Any]:
    """Trains to the end, or goes on with it, and writes the checkpoint. Returns the training log."""
    made = model.untrained(settings)
    alignment = Alignment(settings, folder, made)
    alignment.run()
    training = Training(settings, folder, made)
    training.run()
    checkpoint = folder / "checkpoint"
    model.save(made, settings, checkpoint)
    log = {"sha256": model.digest(made), **training.as_result(), "alignment": alignment.as_result()}
    (folder / LOG).write_text(json.dumps(log, indent=1) + "\n")
    return log


def read_log(folder: Path, name: str = LOG) -> dict[str, Any]:
    """What ``run`` wrote.

    Raises:
        ValueError: if it has not come to its end.
    """
    if not (folder / name).exists():
        raise ValueError(
            "train: expected a finished training, got none; `python -m bench accuracy train` goes on with it"
        )
    found: dict[str, Any] = json.loads((folder / name).read_text())
    return found
