"""Episodes of completion: from the upper half of an image to its lower half."""

import numpy as np
from torch import Tensor

from episodes.data.pool import ClassPool
from episodes.errors import UserError
from episodes.tasks.drawing import check_pool, distinct, images_of
from episodes.tasks.family import Draw
from episodes.types import EpisodeShape, EpisodeSpec


class Completion:
    """Regression of the lower half of an image on its upper half (CL-Seq). A task is a class of the pool.

    x is the upper half, an image of H // 2 rows, y the pixels of the lower half, laid flat and scaled to [-1, 1]: 512 numbers
    of a grey image of 32 x 32.

    Arguments:
        pool: the classes and their images.
    """

    def __init__(self, pool: ClassPool):
        check_images(pool, "completion")
        channels, height, width = pool.x_shape
        if height < 2:
            raise UserError(f"The images of {pool.source} have one row, and completion halves them. Give a larger --data.size.")
        self.pool, self.most_tasks, self.top = pool, len(pool.names), height // 2
        self.spec = EpisodeSpec("image", (channels, self.top, width), "mse", y_shape=(channels * (height - self.top) * width,))

    def check(self, shape: EpisodeShape) -> None:
        check_pool(self.pool, shape)

    def draw(self, rng: np.random.Generator, shape: EpisodeShape) -> Draw:
        classes = distinct(rng, self.most_tasks, shape.tasks)
        chosen = images_of(rng, self.pool, classes, shape.shots + shape.queries)
        low = self.pool.fetch(chosen)[..., self.top :, :].flatten(2).cpu().numpy()
        y, K = low.astype(np.float32) / 127.5 - 1, shape.shots
        return Draw(chosen[:, :K], y[:, :K], chosen[:, K:], y[:, K:], classes)

    def fetch(self, x: np.ndarray) -> Tensor:
        """The upper halves (B, N, C, H // 2, W) of the images at x (B, N)."""
        return self.pool.fetch(x)[..., : self.top, :].contiguous()


def check_images(pool: ClassPool, name: str) -> None:
    """Raises `UserError` where a pool is one of vectors."""
    if pool.x_kind != "image":
        raise UserError(f"{name} asks about images, and {pool.source} has vectors. Name another data set: --data.source.")
