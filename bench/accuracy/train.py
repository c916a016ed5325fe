"""The training of projector and decoder on the features of the frozen tower.

A step shows each picture once, followed by its questions side by side: a question sees the picture and itself, as when
it is asked alone, and starts at the position behind the picture. The loss is that of the answers. No token is dropped:
the model never sees a pruned picture before it is measured on some.

It goes from few tokens to many: the fewer there are, the sooner attention finds the one that a question is about. First
come the means over squares of tokens, as many as there are cells, then over smaller squares, then over rectangles of
many shapes, and smaller pictures, and last over one or two tokens in height and width. So the decoder reads pictures of
many resolutions, as those of users do, and does not count on one number of tokens for a thing. Cells of half of the
pictures are mixed, so that scenes are new.
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

from bench.accuracy import model, questions, words
from bench.accuracy.alignment import Alignment
from bench.accuracy.features import Features, opened, training
from bench.accuracy.mixing import mixed
from bench.accuracy.questions import Question
from bench.accuracy.settings import Settings, Stage
from bench.accuracy.standard import Standard
from bench.accuracy.steps import Steps

SEED = 1
IGNORED = -100
WEIGHT_DECAY = 0.02
LOWEST_RATE = 0.02
"""The learning rate of the last step, as a share of the highest one."""
LEAST_SEEN = 1e-6
"""The least factor of a token's attention: its logarithm is finite."""
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
    made: Any,
    tokens: Tensor,
    packed: Packed,
    change: Callable[[Tensor], Tensor] = lambda visual: visual,
    seen: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """What the model predicts behind the pictures, ``[B, S, words]``.

    Args:
        made: the model.
        tokens: what its projector takes, ``[B, patches, 2 D]``.
        packed: the questions.
        change: what is done to the visual tokens, ``[B, patches, D]``.
        seen: makes of these how much attention each may get, from 0 for a token that is as good as dropped to 1,
            ``[B, patches]``; None for all of it.
    """
    embed = made.get_input_embeddings()
    begin = embed(torch.full((len(tokens), 1), words.NUMBERS[words.BEGIN]))
    visual = change(made.model.multi_modal_projector(tokens))
    embeddings = torch.cat([begin, visual, embed(packed.ids)], dim=1)
    mask = packed.mask
    if seen is not None:
        factors = seen(visual).float().clamp_min(LEAST_SEEN).log()
        mask = mask + F.pad(factors, (1, packed.ids.shape[1]))[:, None, None]
    output = made.model.language_model(
        inputs_embeds=embeddings, attention_mask=mask, position_ids=packed.positions, use_cache=False
    )
    return made.lm_head(output.last_hidden_state[:, embeddings.shape[1] - packed.ids.shape[1] :])


def pooled(visual: Tensor, height: int, width: int) -> Tensor:
    """The means over rectangles of so many of a square picture's tokens, ``[B, side * side, D]``."""
    side = math.isqrt(visual.shape[1])
    return F.avg_pool2d(visual.mT.unflatten(-1, (side, side)), (height, width)).flatten(2).mT


def answers_loss(predicted: Tensor, packed: Packed) -> Tensor:
    """The mean cross-entropy of the answers."""
    return F.cross_entropy(predicted.float().flatten(0, 1), packed.labels.flatten(), ignore_index=IGNORED)


@torch.no_grad()
def right(
    made: Any,
    store: Features,
    count: int,
    left: int,
    change: Callable[[Tensor], Tensor] = lambda visual: visual,
    tokens: Callable[[Tensor], Tensor] = model.joined,
) -> dict[str, float]:
    """The share of the last scenes of a part on which all answers of a task are right, word by word.

    Args:
        made: the model.
        store: the features of the part.
        count: how many scenes.
        left: how many visual tokens a picture has after ``change``.
        change: what is done to the visual tokens.
        tokens: what makes the projector's tokens of hidden states.
    """
    part = store.part
    rng = np.random.default_rng([SEED, 0])
    found: dict[str, list[bool]] = {}
    was_training = made.training
    made.eval()
    for number in range(part.count - count, part.count):
        packed = Packed([questions.taught(part.scene(number), rng)], left)
        same = logits(made, tokens(store.read([number])), packed, change).argmax(-1) == packed.labels
        for task, name in enumerate(packed.names):
            found.setdefault(name, []).append(bool(same[packed.tasks == task].all()))
    made.train(was_training)
    return {name: round(sum(each) / len(each), 3) for name, each in found.items()}


class Training(Steps):
    """The training of projector and decoder up to some step, in a folder; the projector takes standardised tokens."""

    what = "training"

    def __init__(self, settings: Settings, folder: Path, made: Any, standard: Standard) -> None:
        self.features = opened(settings, folder)
        self.standard = standard
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

    def stage(self, step: int) -> Stage:
        """That of a step."""
        for each in self.settings.stages:
            if step < each.steps:
                break
            step -= each.steps
        return each

    def loss(self) -> Tensor:
        stage = self.stage(self.step)
        rng = np.random.default_rng([SEED, self.step])
        every = self.settings.training_scenes
        smaller = stage.smaller and rng.random() < 0.5
        side, count = every[rng.integers(1, len(every))] if smaller else every[0]
        height, width = (1, 1) if smaller else rng.choice(stage.pooled, 2).tolist()
        store = self.features[training(side)]
        numbers, part = rng.choice(count, stage.batch, replace=False).tolist(), store.part
        drawn = [part.scene(number) for number in numbers]
        given, states = mixed(drawn, store.read(numbers), rng)
        taught = [questions.taught(each, rng) for each in given]
        packed = Packed(taught, (part.height // height) * (part.width // width))
        with self.products():
            predicted = logits(self.model, self.standard(states), packed, lambda each: pooled(each, height, width))
        return answers_loss(predicted, packed)

    def validated(self) -> dict[str, Any]:
        """What is right on the scenes that were kept aside, with all tokens and with as few as the stage has."""
        last = self.stage(self.step - 1)
        if self.step % VALIDATE_EVERY and self.step < self.total and self.stage(self.step) is last:
            return {}
        few = max(last.pooled)
        entry = {"all tokens": self._right(1)}
        return entry | ({f"squares of {few}": self._right(few)} if few > 1 else {})

    def _right(self, patches: int) -> dict[str, float]:
        store = self.features[training(self.settings.side)]
        left, count = store.part.tokens // patches**2, self.settings.validation_scenes
        return right(self.model, store, count, left, lambda each: pooled(each, patches, patches), self.standard)


def run(settings: Settings, folder: Path) -> dict[str, Any]:
    """Trains to the end, or goes on with it, and writes the checkpoint. Returns the training log."""
    made = model.untrained(settings)
    standard = Standard.of(opened(settings, folder)[training(settings.side)])
    alignment = Alignment(settings, folder, made, standard)
    alignment.run()
    answers = Training(settings, folder, made, standard)
    answers.run()
    standard.fold(made.model.multi_modal_projector)
    checkpoint = folder / "checkpoint"
    model.save(made, settings, checkpoint)
    sha256 = model.digest(model.trained_parameters(made))
    log = {"sha256": sha256, **answers.as_result(), "alignment": alignment.as_result()}
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
