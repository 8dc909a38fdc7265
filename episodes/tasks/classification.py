"""Episodes of classification: a task is a class."""

import numpy as np
from torch import Tensor

from episodes.data.pool import ClassPool
from episodes.errors import UserError
from episodes.tasks.family import Draw
from episodes.types import EpisodeShape, EpisodeSpec


class Classification:
    """A task is a class of the pool; in each episode it gets a random symbol that means nothing elsewhere."""

    def __init__(self, pool: ClassPool, vocabulary: int):
        self.pool = pool
        self.spec = EpisodeSpec("image", pool.x_shape, "cross_entropy", symbols=vocabulary)
        self.most_tasks = len(pool.names)

    def check(self, shape: EpisodeShape) -> None:
        classes, needed = len(self.pool.names), shape.shots + shape.queries
        if shape.tasks > classes:
            raise UserError(
                f"{shape.tasks} tasks are asked, but {self.pool.source} has {classes} classes. Ask for {classes} or fewer: "
                f"--tasks {classes} of evaluate.py, --episodes.tasks {classes} of train.py."
            )
        if shape.tasks > self.spec.symbols:
            raise UserError(
                f"{shape.tasks} tasks need as many symbols; this family has {self.spec.symbols}. Build it with shape.symbols."
            )
        small = [f"{name} ({n})" for name, n in zip(self.pool.names, self.pool.counts, strict=True) if n < needed]
        if small:
            raise UserError(
                f"{len(small)} of the {classes} classes of {self.pool.source} have fewer than the {shape.shots} shots + "
                f"{shape.queries} queries = {needed} images that are asked: {', '.join(small)}. Ask for fewer, or leave out "
                f"such classes: --data.fewest {needed}."
            )

    def draw(self, rng: np.random.Generator, shape: EpisodeShape) -> Draw:
        classes = _distinct(rng, len(self.pool.names), shape.tasks)
        symbols = _distinct(rng, self.spec.symbols, shape.tasks)
        counts = self.pool.counts[classes]
        lots = rng.random((shape.tasks, counts.max()))
        lots[np.arange(counts.max()) >= counts[:, None]] = 2.0  # places past a class's last image lose every draw
        chosen = np.argsort(lots, axis=1)[:, : shape.shots + shape.queries] + self.pool.starts[classes][:, None]
        labels = np.broadcast_to(symbols[:, None], chosen.shape)
        K = shape.shots
        return Draw(chosen[:, :K], labels[:, :K], chosen[:, K:], labels[:, K:], classes)

    def fetch(self, x: np.ndarray) -> Tensor:
        return self.pool.fetch(x)


def _distinct(rng: np.random.Generator, choices: int, size: int) -> np.ndarray:
    """`size` distinct integers below `choices`, in random order."""
    return np.argsort(rng.random(choices))[:size]
