"""Episodes of classification: a task is a class."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from episodes.data.pool import ClassPool
from episodes.errors import UserError
from episodes.tasks.drawing import check_pool, distinct, images_of
from episodes.tasks.family import Draw
from episodes.types import EpisodeShape, EpisodeSpec


class Classification:
    """A task is a class of the pool; in each episode it gets a random symbol that means nothing elsewhere.

    Arguments:
        pool: the classes and their images.
        vocabulary: label symbols (V).
        rotations: ways in which each class stands there, each a class of its own (Santoro et al. 2016, Vinyals et al. 2016):
            4 by quarter turns, of square images; 2 upside down. Class c of n is class c % n of the pool, turned c // n times.
        sets: the names of the data sets that the classes are of, where these are several: "name/label" is a class's name.
    """

    def __init__(self, pool: ClassPool, vocabulary: int, rotations: int = 1, sets: Sequence[str] = ()):
        self.pool, self.rotations, self.sets = pool, rotations, tuple(sets)
        self.spec = EpisodeSpec(pool.x_kind, pool.x_shape, "cross_entropy", symbols=vocabulary)
        self.most_tasks = rotations * len(pool.names)

    def check(self, shape: EpisodeShape) -> None:
        check_pool(self.pool, shape, self.rotations)
        self.check_symbols(shape)

    def check_symbols(self, shape: EpisodeShape) -> None:
        """Raises `UserError` where there are fewer symbols than classes."""
        if shape.tasks > self.spec.symbols:
            raise UserError(
                f"{shape.tasks} tasks need as many symbols; this family has {self.spec.symbols}. Build it with shape.symbols."
            )

    def draw(self, rng: np.random.Generator, shape: EpisodeShape) -> Draw:
        numbers = distinct(rng, self.most_tasks, shape.tasks)
        turns, classes = np.divmod(numbers, len(self.pool.names))
        symbols = distinct(rng, self.spec.symbols, shape.tasks)
        chosen = images_of(rng, self.pool, classes, shape.shots + shape.queries) + turns[:, None] * len(self.pool.x)
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
