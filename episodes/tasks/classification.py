"""Episodes of classification: a task is a class."""

import numpy as np
import torch
from torch import Tensor

from episodes.data.pool import ClassPool
from episodes.errors import UserError, listed
from episodes.tasks.family import Draw
from episodes.types import EpisodeShape, EpisodeSpec


class Classification:
    """A task is a class of the pool; in each episode it gets a random symbol that means nothing elsewhere.

    Arguments:
        pool: the classes and their images.
        vocabulary: label symbols (V).
        rotations: ways in which each class stands there, each a class of its own (Santoro et al. 2016, Vinyals et al. 2016):
            4 by quarter turns, of square images; 2 upside down. Class c of n is class c % n of the pool, turned c // n times.
    """

    def __init__(self, pool: ClassPool, vocabulary: int, rotations: int = 1):
        self.pool, self.rotations = pool, rotations
        self.spec = EpisodeSpec(pool.x_kind, pool.x_shape, "cross_entropy", symbols=vocabulary)
        self.most_tasks = rotations * len(pool.names)

    def check(self, shape: EpisodeShape) -> None:
        classes, most, needed = len(self.pool.names), self.most_tasks, shape.shots + shape.queries
        if shape.tasks > most:
            turned = f", turned {self.rotations} ways" if self.rotations > 1 else ""
            raise UserError(
                f"{shape.tasks} tasks are asked, but {self.pool.source} has {classes} classes{turned}. Ask for {most} or "
                f"fewer: --tasks {most} of evaluate.py, --episodes.tasks {most} of train.py."
            )
        if shape.tasks > self.spec.symbols:
            raise UserError(
                f"{shape.tasks} tasks need as many symbols; this family has {self.spec.symbols}. Build it with shape.symbols."
            )
        small = [f"{name} ({n})" for name, n in zip(self.pool.names, self.pool.counts, strict=True) if n < needed]
        if small:
            raise UserError(
                f"{len(small)} of the {classes} classes of {self.pool.source} have fewer than the {shape.shots} shots + "
                f"{shape.queries} queries = {needed} images that are asked: {listed(small)}. Ask for fewer, or leave out "
                f"such classes: --data.fewest {needed}."
            )

    def draw(self, rng: np.random.Generator, shape: EpisodeShape) -> Draw:
        numbers = _distinct(rng, self.most_tasks, shape.tasks)
        turns, classes = np.divmod(numbers, len(self.pool.names))
        symbols = _distinct(rng, self.spec.symbols, shape.tasks)
        counts = self.pool.counts[classes]
        lots = rng.random((shape.tasks, counts.max()))
        lots[np.arange(counts.max()) >= counts[:, None]] = 2.0  # places past a class's last image lose every draw
        chosen = np.argsort(lots, axis=1)[:, : shape.shots + shape.queries] + self.pool.starts[classes][:, None]
        chosen += turns[:, None] * len(self.pool.x)
        labels = np.broadcast_to(symbols[:, None], chosen.shape)
        K = shape.shots
        return Draw(chosen[:, :K], labels[:, :K], chosen[:, K:], labels[:, K:], numbers)

    def fetch(self, x: np.ndarray) -> Tensor:
        """The images (B, N, *x_shape) at x (B, N): the place of an image in the pool, plus all of them for each turn."""
        turns, places = np.divmod(x, len(self.pool.x))
        images = self.pool.fetch(places)
        for turn in range(1, self.rotations):
            which = torch.from_numpy(turns == turn).to(images.device)
            images[which] = images[which].rot90(turn * 4 // self.rotations, (-2, -1))
        return images


def _distinct(rng: np.random.Generator, choices: int, size: int) -> np.ndarray:
    """`size` distinct integers below `choices`, in random order."""
    return np.argsort(rng.random(choices))[:size]
