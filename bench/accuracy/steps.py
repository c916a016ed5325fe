"""The steps of a training, which go on where they were interrupted."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bench.accuracy.muon import Muon
from bench.accuracy.settings import Settings
from tokenprune_kernels.analysis.progress import Progress

BETAS = (0.9, 0.98)
LARGEST_GRADIENT = 1.0
SECONDS_BETWEEN_SAVES = 60.0
LOG_EVERY = 10


def mixed_precision() -> bool:
    """Whether this processor has instructions for products of bfloat16."""
    found = torch.cpu.get_capabilities()
    return any(found.get(name, False) for name in ("avx512_bf16", "amx_bf16"))


class Steps(ABC):
    """Gradient descent on some parameters, with its state in a file. A step depends on that state and its number.

    Muon moves the matrices that it is given: attention finds what a question is about in a fraction of the steps that
    AdamW needs. AdamW moves everything else.

    Weights, loss and optimizer are float32. Where the processor multiplies bfloat16, the passes in ``products`` use it,
    which takes two thirds of the time.

    Args:
        settings: sizes and seeds; a file of others is refused.
        file: where the state is kept.
        total: how many steps there are.
        parameters: those that training changes, by name.
        decay: the weight decay of matrices; that of vectors is zero.
        by_muon: the names of Muon's matrices.
        of: what else the state depends on; a file with another one is refused.
    """

    what: str

    def __init__(
        self,
        settings: Settings,
        file: Path,
        total: int,
        parameters: dict[str, nn.Parameter],
        decay: float,
        by_muon: Collection[str] = (),
        of: str = "",
    ) -> None:
        self.settings = settings
        self._of = {"settings": settings.as_result(), "of": of}
        self.total = total
        self.parameters = parameters
        others = [each for name, each in parameters.items() if name not in by_muon]
        groups = [
            {"params": [each for each in others if each.dim() > 1], "weight_decay": decay},
            {"params": [each for each in others if each.dim() <= 1], "weight_decay": 0.0},
        ]
        self.optimizers: list[torch.optim.Optimizer] = [torch.optim.AdamW(groups, betas=BETAS)]
        if by_muon:
            self.optimizers.append(Muon([parameters[name] for name in by_muon], decay))
        self.mixed = mixed_precision()
        self.step = 0
        self.seconds = 0.0
        self.log: list[dict[str, Any]] = []
        self._file = file
        if file.exists():
            self._restore()

    @abstractmethod
    def rate(self) -> float:
        """The learning rate of this step."""

    @abstractmethod
    def loss(self) -> Tensor:
        """The loss of this step."""

    def validated(self) -> dict[str, Any]:
        """What the log says of the step that was done last, beside its loss; mostly nothing."""
        return {}

    def run(self) -> None:
        """Goes on to the last step. An interruption loses what was done since the last minute."""
        saved = time.monotonic()
        with Progress(self.total) as progress:
            for _ in range(self.step):
                progress.step(f"{self.what}: goes on")
            while self.step < self.total:
                loss = self.log[-1]["loss"] if self.log else float("nan")
                progress.step(f"{self.what}: step {self.step} of {self.total}, loss {loss:.3f}")
                self.advance()
                if time.monotonic() - saved > SECONDS_BETWEEN_SAVES:
                    self.save()
                    saved = time.monotonic()
        self.save()

    def advance(self) -> None:
        """One step."""
        start = time.perf_counter()
        loss, rate = self.loss(), self.rate()
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)
            for group in optimizer.param_groups:
                group["lr"] = rate
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.parameters.values(), LARGEST_GRADIENT)
        for optimizer in self.optimizers:
            optimizer.step()
        self.step += 1
        self.seconds += time.perf_counter() - start
        validated = self.validated()
        if validated or self.step % LOG_EVERY == 0:
            entry = {"step": self.step, "loss": round(loss.item(), 4), "seconds": round(self.seconds, 1)}
            self.log.append(entry | validated)

    def products(self) -> torch.autocast:
        """The context of a forward pass."""
        return torch.autocast("cpu", torch.bfloat16, enabled=self.mixed)

    def as_result(self) -> dict[str, Any]:
        """What is said of the training when it is done."""
        return {
            "parameters": sum(each.numel() for each in self.parameters.values()),
            "seconds": round(self.seconds, 1),
            "products": "bfloat16" if self.mixed else "float32",
            "steps": self.log,
        }

    def save(self) -> None:
        """Writes the state; a reader never finds half of it."""
        state = {
            **self._of,
            "step": self.step,
            "seconds": self.seconds,
            "log": self.log,
            "model": {name: each.detach() for name, each in self.parameters.items()},
            "optimizers": [each.state_dict() for each in self.optimizers],
        }
        partial = self._file.with_suffix(".partial")
        torch.save(state, partial)
        partial.replace(self._file)

    def _restore(self) -> None:
        state = torch.load(self._file, weights_only=True)
        if any(state.get(name) != value for name, value in self._of.items()):
            raise ValueError(
                f"train: expected {self._file.name} of these settings and this model, got another's; remove it or "
                "name another folder"
            )
        with torch.no_grad():
            for name, value in state["model"].items():
                self.parameters[name].copy_(value)
        for optimizer, kept in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(kept)
        self.step, self.seconds, self.log = state["step"], state["seconds"], state["log"]
