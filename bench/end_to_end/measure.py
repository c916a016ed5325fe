"""The rows of one model."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from bench import judge, memory
from bench.end_to_end.clock import LayerClock, milliseconds, short_times, stands_for
from bench.end_to_end.models import TEXT_TOKENS, FullSize, build, placeholder_id, prompt, stacks
from bench.end_to_end.selection import Loop, encoded_once, selecting_by
from bench.times import Times
from python_ref import published
from tokenprune_kernels.integrations.transformers import prune_inputs
from tokenprune_kernels.metrics import prefill_flops

WARM_UP_TOKENS = 2
# Of each row, beside the one of each model: on a CPU a run takes seconds, and one row is no warmer than the next.
WARM_UPS = {"cpu": 0, "cuda": 2}


@dataclass(frozen=True)
class Pruner:
    """A way to prune: the options of ``prune_inputs``, none for no pruning, and what selects instead."""

    name: str
    options: dict[str, Any] = field(default_factory=dict)
    loop: Loop | None = None


@dataclass
class PrunedRun:
    """One pruner on one model; its fields are those of the JSON file, times in milliseconds.

    Attributes:
        pruner: its name.
        visual_tokens: how many are left in the prompt.
        teraflops: of the prefill at full depth, by the DivPrune paper's formula.
        published: whether a published loop selects.
        correct: whether the float64 replay accepts the picks; None without pruning.
        note: what is wrong with them.
        prefill: from the model inputs to the first logits, with the vision tower and the pruning.
        full_depth: the median of the same for all layers of the full model.
        generation: from the model inputs to the last new token.
        memory: the peak during the latter, in bytes.
        operator: the selection alone.
        step: the whole pruning without the vision tower.
    """

    pruner: str
    visual_tokens: int
    teraflops: float = 0.0
    published: bool = False
    correct: bool | None = None
    note: str = ""
    prefill: Times | None = None
    full_depth: float | None = None
    generation: Times | None = None
    memory: int | None = None
    operator: Times | None = None
    step: Times | None = None


def pruners_of(divprune_ratio: float) -> list[Pruner]:
    """The rows of a table, the one without pruning first."""
    divprune = {"method": "divprune", "keep_ratio": divprune_ratio}
    idpruner = {"method": "idpruner", "importance": "norm"}
    share = f"{100 * divprune_ratio:.3g} %"
    return [
        Pruner("none"),
        Pruner(f"DivPrune {share}", divprune),
        Pruner("IDPruner 25 %", idpruner | {"keep_ratio": 0.25}),
        Pruner("IDPruner 10 %", idpruner | {"keep_ratio": 0.1}),
        Pruner(f"published DivPrune loop {share}", divprune, published.published_divprune),
    ]


class Measurement:
    """A model at some depth, its prompt, and how they are measured."""

    def __init__(
        self,
        case: FullSize,
        device: str,
        layers: int,
        vision_layers: int,
        new_tokens: int,
        runs: int,
        report: Callable[[str], None],
    ) -> None:
        report(f"{case.name}: {layers} of {case.layers} layers, {vision_layers} of {case.vision_layers} of the tower")
        self.case = case
        self.device = device
        self.new_tokens = new_tokens
        self.runs = runs
        self.report = report
        self.model = build(case, layers, vision_layers, device)
        self.inputs = prompt(case, self.model.config, device)
        self.clock = LayerClock(device)
        self.counts = (
            stands_for(["layer"] * layers, ["layer"] * case.layers),
            stands_for(case.vision_kinds(vision_layers), case.vision_kinds(case.vision_layers)),
        )

    @torch.no_grad()
    def rows(self, pruners: Sequence[Pruner]) -> list[PrunedRun]:
        """A row for each pruner; it has no times where the operator's picks, or their number, are wrong."""
        rows = self._selections(pruners)
        self.report(f"{self.case.name}: warming up")
        self._generation(pruners[-1], WARM_UP_TOKENS)  # a short prompt warms as well as a long one
        for row, pruner in zip(rows, pruners, strict=True):
            self.report(f"{self.case.name}, {pruner.name}: generating")
            # Published loops are timed right or wrong: users run them either way.
            if row.correct is not False or row.published:
                with selecting_by(pruner.loop):
                    self._generate(row, pruner)
        return rows

    def _selections(self, pruners: Sequence[Pruner]) -> list[PrunedRun]:
        """The rows without what is generated; the features that they share are gone when memory is measured."""
        features: dict[str, Any] = {}
        text = self.model.config.get_text_config()
        rows = []
        for pruner in pruners:
            self.report(f"{self.case.name}, {pruner.name}: selecting")
            row = PrunedRun(pruner.name, self.case.visual_tokens, published=pruner.loop is not None)
            if pruner.options:
                with encoded_once(self.model.model, self.case.modality, features):
                    self._select(row, pruner)
            tokens = TEXT_TOKENS + row.visual_tokens
            flops = prefill_flops(tokens, text.hidden_size, text.intermediate_size, self.case.layers)
            row.teraflops = 1e-12 * flops
            rows.append(row)
        return rows

    def _select(self, row: PrunedRun, pruner: Pruner) -> None:
        with selecting_by(pruner.loop) as recorder:
            with recorder:
                input_ids = self._inputs(pruner)["input_ids"]
            row.visual_tokens = int((input_ids == placeholder_id(self.case, self.model.config)).sum())
            k = round(pruner.options["keep_ratio"] * self.case.visual_tokens)
            found = recorder.selection
            row.note = judge.mistake(found.method, found.x, found.indices, k, found.weight)
            if not row.note and row.visual_tokens != k:
                row.note = f"{row.visual_tokens} visual tokens in the prompt instead of {k}"
            row.correct = not row.note
            if row.correct or row.published:
                row.operator = short_times(found.repeat, self.device)
                row.step = short_times(lambda: self._inputs(pruner), self.device)

    def _inputs(self, pruner: Pruner) -> dict[str, Any]:
        return prune_inputs(self.model, self.inputs, **pruner.options) if pruner.options else dict(self.inputs)

    def _generate(self, row: PrunedRun, pruner: Pruner) -> None:
        for _ in range(WARM_UPS[self.device]):
            self._generation(pruner, WARM_UP_TOKENS)
        memory.reset_peak(self.device)
        times = [self._generation(pruner, self.new_tokens) for _ in range(self.runs)]
        row.memory = memory.peak_bytes(self.device)
        prefill, missing, generation = zip(*times, strict=True)
        row.prefill, row.generation = Times.of(prefill), Times.of(generation)
        row.full_depth = Times.of([sum(parts) for parts in zip(prefill, missing, strict=True)]).median

    def _generation(self, pruner: Pruner, new_tokens: int) -> tuple[float, float, float]:
        """The milliseconds to the first logits, what missing layers would add to them, and those to the last token."""
        logits = []

        def first_logits(*_: Any) -> None:
            self.clock.stop()
            if not logits:
                logits.append(milliseconds(self.device))

        with contextlib.ExitStack() as stack:
            for layers, counts in zip(stacks(self.model), self.counts, strict=True):
                stack.enter_context(self.clock.watching(layers, counts))
            stack.callback(self.model.register_forward_hook(first_logits).remove)
            start = milliseconds(self.device)
            self.clock.start()
            self.model.generate(
                **self._inputs(pruner), max_new_tokens=new_tokens, min_new_tokens=new_tokens, do_sample=False
            )
            end = milliseconds(self.device)
        return logits[0] - start, self.clock.missing, end - start
