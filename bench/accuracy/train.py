"""The training of projector and decoder on the features of the frozen tower.

A step shows each picture once, followed by its questions side by side: a question sees the picture and itself, as when
it is asked alone, and starts at the position behind the picture. The loss is that of the answers. No token is dropped:
the model never sees a pruned picture before it is measured on some.

Most steps see small pictures, the last ones large ones, so that the decoder meets the positions of the evaluation.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from bench.accuracy import model, questions, scenes, tower, words
from bench.accuracy.features import TRAINING, TUNING, opened
from bench.accuracy.questions import Question
from bench.accuracy.settings import Settings
from tokenprune_kernels.analysis.progress import Progress

SEED = 1
IGNORED = -100
WEIGHT_DECAY = 0.02
BETAS = (0.9, 0.98)
LARGEST_GRADIENT = 1.0
LOWEST_RATE = 0.02
"""The learning rate of the last step, as a share of the highest one."""
SECONDS_BETWEEN_SAVES = 60.0
LOG_EVERY, VALIDATE_EVERY = 10, 200
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


def logits(made: Any, states: Tensor, packed: Packed) -> Tensor:
    """What the model predicts behind the pictures, ``[B, S, words]``.

    Args:
        made: the model.
        states: the hidden states of the tower that it takes its tokens from, ``[B, 2, 1 + patches, D]``.
        packed: the questions.
    """
    embed = made.get_input_embeddings()
    begin = embed(torch.full((len(states), 1), words.NUMBERS[words.BEGIN]))
    visual = made.model.multi_modal_projector(torch.cat(states.unbind(1), dim=-1)[:, 1:])
    embeddings = torch.cat([begin, visual, embed(packed.ids)], dim=1)
    output = made.model.language_model(
        inputs_embeds=embeddings, attention_mask=packed.mask, position_ids=packed.positions, use_cache=False
    )
    return made.lm_head(output.last_hidden_state[:, embeddings.shape[1] - packed.ids.shape[1] :])


def rate(settings: Settings, step: int) -> float:
    """The learning rate of a step: linear warm-up, then a cosine down to ``LOWEST_RATE``."""
    if step < settings.warm_up:
        return settings.learning_rate * (step + 1) / settings.warm_up
    done = (step - settings.warm_up) / max(1, settings.steps + settings.tuning_steps - settings.warm_up)
    return settings.learning_rate * (LOWEST_RATE + (1 - LOWEST_RATE) * 0.5 * (1 + math.cos(math.pi * done)))


class Training:
    """The training up to some step, in a folder; a step depends on nothing but the state before it and its number."""

    def __init__(self, settings: Settings, folder: Path) -> None:
        self.settings = settings
        self.folder = folder
        self.features = opened(settings, folder)
        self.model = model.untrained(settings).train()
        parameters = model.trained_parameters(self.model)
        decayed = [each for each in parameters.values() if each.dim() > 1]
        others = [each for each in parameters.values() if each.dim() <= 1]
        groups = [{"params": decayed, "weight_decay": WEIGHT_DECAY}, {"params": others, "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(groups, betas=BETAS)
        self.step = 0
        self.seconds = 0.0
        self.log: list[dict[str, Any]] = []
        self._file = folder / "training.pt"
        if self._file.exists():
            self._restore()

    @property
    def total(self) -> int:
        return self.settings.steps + self.settings.tuning_steps

    def run(self) -> None:
        """Goes on to the last step. An interruption loses what was done since the last minute."""
        saved = time.monotonic()
        with Progress(self.total) as progress:
            for _ in range(self.step):
                progress.step("training: goes on")
            while self.step < self.total:
                loss = self.log[-1]["loss"] if self.log else float("nan")
                progress.step(f"training: step {self.step} of {self.total}, loss {loss:.3f}")
                self.advance()
                if time.monotonic() - saved > SECONDS_BETWEEN_SAVES:
                    self.save()
                    saved = time.monotonic()
        self.save()

    def advance(self) -> None:
        """One step."""
        start = time.perf_counter()
        large = self.step >= self.settings.steps
        store = self.features[TUNING if large else TRAINING]
        numbers = self._numbers(large)
        rng = np.random.default_rng([SEED, self.step])
        given = [scenes.scene(store.part.split, store.part.first + number) for number in numbers]
        packed = Packed([questions.taught(each, rng) for each in given], store.part.tokens)
        for group in self.optimizer.param_groups:
            group["lr"] = rate(self.settings, self.step)
        predicted = logits(self.model, store.read(numbers), packed)
        loss = F.cross_entropy(predicted.flatten(0, 1), packed.labels.flatten(), ignore_index=IGNORED)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.trained_parameters(self.model).values(), LARGEST_GRADIENT)
        self.optimizer.step()
        self.step += 1
        self.seconds += time.perf_counter() - start
        validates = self.step % VALIDATE_EVERY == 0 or self.step in (self.settings.steps, self.total)
        if validates or self.step % LOG_EVERY == 0:
            entry = {"step": self.step, "loss": round(loss.item(), 4), "seconds": round(self.seconds, 1)}
            self.log.append(entry | (self._validated(large) if validates else {}))

    def _numbers(self, large: bool) -> list[int]:
        """The scenes of this step: epoch after epoch in a new order, without the last ones of the files."""
        settings = self.settings
        count = settings.tuning_scenes if large else settings.training_scenes
        batch = settings.tuning_batch if large else settings.batch
        first = (self.step - settings.steps if large else self.step) * batch
        orders: dict[int, Any] = {}
        numbers = []
        for place in range(first, first + batch):
            epoch = place // count
            if epoch not in orders:
                orders[epoch] = np.random.default_rng([SEED, int(large), epoch]).permutation(count)
            numbers.append(int(orders[epoch][place % count]))
        return numbers

    @torch.no_grad()
    def _validated(self, large: bool) -> dict[str, Any]:
        """The share of scenes that were kept aside on which all answers of a task are right, word by word."""
        count = self.settings.validation_scenes
        store = self.features[TUNING if large else TRAINING]
        numbers = range(store.part.count - count, store.part.count)
        rng = np.random.default_rng([SEED, 0])
        right: dict[str, list[bool]] = {}
        self.model.eval()
        for number in numbers:
            given = scenes.scene(store.part.split, store.part.first + number)
            packed = Packed([questions.taught(given, rng)], store.part.tokens)
            found = logits(self.model, store.read([number]), packed).argmax(-1) == packed.labels
            for task, name in enumerate(packed.names):
                right.setdefault(name, []).append(bool(found[packed.tasks == task].all()))
        self.model.train()
        shares = {name: round(sum(each) / len(each), 3) for name, each in right.items()}
        return {"side": store.part.height * tower.PATCH, "validation": shares}

    def save(self) -> None:
        """Writes the state; a reader never finds half of it."""
        state = {
            "settings": self.settings.as_result(),
            "step": self.step,
            "seconds": self.seconds,
            "log": self.log,
            "model": {name: each.detach() for name, each in model.trained_parameters(self.model).items()},
            "optimizer": self.optimizer.state_dict(),
        }
        partial = self._file.with_suffix(".partial")
        torch.save(state, partial)
        partial.replace(self._file)

    def _restore(self) -> None:
        state = torch.load(self._file, weights_only=True)
        if state["settings"] != self.settings.as_result():
            raise ValueError(
                f"train: expected {self._file.name} of these settings, got another's; remove it or name another folder"
            )
        self.model.load_state_dict(state["model"], strict=False)
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.seconds, self.log = state["step"], state["seconds"], state["log"]


def run(settings: Settings, folder: Path) -> dict[str, Any]:
    """Trains to the end, or goes on with it, and writes the checkpoint. Returns the training log."""
    training = Training(settings, folder)
    training.run()
    checkpoint = folder / "checkpoint"
    model.save(training.model, settings, checkpoint)
    log = {
        "parameters": sum(each.numel() for each in model.trained_parameters(training.model).values()),
        "sha256": model.digest(training.model),
        "seconds": round(training.seconds, 1),
        "steps": training.log,
    }
    (folder / LOG).write_text(json.dumps(log, indent=1) + "\n")
    return log


def read_log(folder: Path) -> dict[str, Any]:
    """What ``run`` wrote.

    Raises:
        ValueError: if it has not come to its end.
    """
    if not (folder / LOG).exists():
        raise ValueError(
            "train: expected a finished training, got none; `python -m bench accuracy train` goes on with it"
        )
    found: dict[str, Any] = json.loads((folder / LOG).read_text())
    return found
