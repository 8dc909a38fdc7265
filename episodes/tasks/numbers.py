"""Episodes of regression on numbers that a data set has beside its inputs."""

import numpy as np
from torch import Tensor

from episodes.data.pool import ClassPool
from episodes.tasks.drawing import check_pool, distinct, images_of
from episodes.tasks.family import Draw
from episodes.types import EpisodeShape, EpisodeSpec


class Numbers:
    """Regression of the targets of a pool on its inputs. A task is a class of the pool: what x says of y may be its own.

    y is (targets - mean) / deviation.

    Arguments:
        pool: the classes, their inputs and their targets (I, Y).
        mean, deviation: (Y,) of the targets of meta-train, for all meta-splits.
    """

    def __init__(self, pool: ClassPool, mean: np.ndarray, deviation: np.ndarray):
        assert pool.targets is not None
        self.pool, self.most_tasks = pool, len(pool.names)
        self.y = ((pool.targets - mean) / deviation).astype(np.float32)
        self.spec = EpisodeSpec(pool.x_kind, pool.x_shape, "mse", y_shape=self.y.shape[1:])

    def check(self, shape: EpisodeShape) -> None:
        check_pool(self.pool, shape)

    def draw(self, rng: np.random.Generator, shape: EpisodeShape) -> Draw:
        classes, K = distinct(rng, self.most_tasks, shape.tasks), shape.shots
        chosen = images_of(rng, self.pool, classes, K + shape.queries)
        y = self.y[chosen]
        return Draw(chosen[:, :K], y[:, :K], chosen[:, K:], y[:, K:], classes)

    def fetch(self, x: np.ndarray) -> Tensor:
        """The inputs (B, N, *x_shape) at x (B, N)."""
        return self.pool.fetch(x)
