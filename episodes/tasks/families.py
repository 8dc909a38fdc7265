"""Task families: what a task is and how one episode's examples are drawn. All randomness comes from the generator given."""

from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from episodes.data.pool import ClassPool
from episodes.errors import UserError
from episodes.types import EpisodeShape, EpisodeSpec


class Draw(NamedTuple):
    """One episode before its inputs are fetched. The inputs are pool indices or finished vectors, a row for each task."""

    stream_x: np.ndarray
    """(T, K) pool indices or (T, K, F)."""
    stream_y: np.ndarray
    """(T, K) symbols or (T, K, F)."""
    query_x: np.ndarray
    query_y: np.ndarray


class TaskFamily(Protocol):
    """What an `EpisodeGenerator` asks of a family."""

    @property
    def spec(self) -> EpisodeSpec: ...

    @property
    def most_tasks(self) -> int | None:
        """Tasks that an episode can have; None: any number."""
        ...

    def check(self, shape: EpisodeShape) -> None:
        """Raises `UserError` when episodes of this shape cannot be drawn."""
        ...

    def draw(self, rng: np.random.Generator, shape: EpisodeShape) -> Draw: ...

    def fetch(self, x: np.ndarray) -> Tensor:
        """The inputs (B, N, *x_shape) for drawn `x` of shape (B, N, ...)."""
        ...


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
                f"{shape.tasks} tasks are asked, but {self.pool.source} has {classes} classes. Ask for fewer tasks."
            )
        if shape.tasks > self.spec.symbols:
            raise UserError(
                f"{shape.tasks} tasks need as many symbols; this family has {self.spec.symbols}. Build it with shape.symbols."
            )
        fewest = int(self.pool.counts.argmin())
        if self.pool.counts[fewest] < needed:
            raise UserError(
                f"Class {self.pool.names[fewest]!r} of {self.pool.source} has {self.pool.counts[fewest]} images, "
                f"but {shape.shots} shots + {shape.queries} queries = {needed} are asked. Ask for fewer or drop the class."
            )

    def draw(self, rng: np.random.Generator, shape: EpisodeShape) -> Draw:
        classes = _distinct(rng, len(self.pool.names), shape.tasks)
        symbols = _distinct(rng, self.spec.symbols, shape.tasks)
        counts = self.pool.counts[classes]
        lots = rng.random((shape.tasks, counts.max()))
        lots[np.arange(counts.max()) >= counts[:, None]] = 2.0  # places past a class's last image lose every draw
        chosen = np.argsort(lots, axis=1)[:, : shape.shots + shape.queries] + self.pool.starts[classes][:, None]
        labels = np.broadcast_to(symbols[:, None], chosen.shape)
        return Draw(chosen[:, : shape.shots], labels[:, : shape.shots], chosen[:, shape.shots :], labels[:, shape.shots :])

    def fetch(self, x: np.ndarray) -> Tensor:
        return self.pool.fetch(x)


class Sine:
    """Regression between two sine waves of one frequency (CL-Seq, section 4 of its appendix).

    A task is a frequency in [0.1, 1.1] and two phases; an example is an amplitude in [0.5, 1.5]: 50 noisy points of the
    first wave over t in [0, 10] are the input, the 50 points of the second wave the target.
    """

    points, noise, most_tasks = 50, 0.1, None
    spec = EpisodeSpec("vector", (50,), "mse", y_shape=(50,))

    def check(self, shape: EpisodeShape) -> None:
        """Any shape can be drawn."""

    def draw(self, rng: np.random.Generator, shape: EpisodeShape) -> Draw:
        tasks, examples = shape.tasks, shape.shots + shape.queries
        time = np.linspace(0.0, 10.0, self.points)
        angle = 2 * np.pi * (0.1 + rng.random((tasks, 1, 1))) * time
        phase_x, phase_y = 2 * np.pi * rng.random((2, tasks, 1, 1))
        amplitude = 0.5 + rng.random((tasks, examples, 1))
        x = amplitude * np.sin(angle + phase_x) + self.noise * rng.standard_normal((tasks, examples, self.points))
        y = amplitude * np.sin(angle + phase_y)
        x, y = x.astype(np.float32), y.astype(np.float32)
        return Draw(x[:, : shape.shots], y[:, : shape.shots], x[:, shape.shots :], y[:, shape.shots :])

    def fetch(self, x: np.ndarray) -> Tensor:
        return torch.from_numpy(x)


def _distinct(rng: np.random.Generator, choices: int, size: int) -> np.ndarray:
    """`size` distinct integers below `choices`, in random order."""
    return np.argsort(rng.random(choices))[:size]
