"""Episodes of rotation: from a turned image to the angle by which it was turned."""

import numpy as np
import torch
from torch import Tensor

from episodes.augment.images import warped
from episodes.data.pool import ClassPool
from episodes.tasks.completion import check_images
from episodes.tasks.drawing import check_pool, distinct, images_of
from episodes.tasks.family import Draw
from episodes.types import EpisodeShape, EpisodeSpec

TOGETHER = 512
"""Images that are turned at a time: as floats they are few enough for the cache of a processor."""


class Rotation:
    """Regression of the angle by which an image is turned (CL-Seq). A task is a class of the pool, with an offset of its own.

    An image is turned clockwise about its centre by an angle and the offset of its task, both uniform on the circle; y is (cos,
    sin) of the angle alone. So what is upright is another in each episode, and nothing but the stream tells it. What comes from
    beyond an edge has the value of the edge.

    Arguments:
        pool: the classes and their images.
    """

    def __init__(self, pool: ClassPool):
        check_images(pool, "rotation")
        self.pool, self.most_tasks = pool, len(pool.names)
        self.spec = EpisodeSpec("image", pool.x_shape, "mse", y_shape=(2,))

    def check(self, shape: EpisodeShape) -> None:
        check_pool(self.pool, shape)

    def draw(self, rng: np.random.Generator, shape: EpisodeShape) -> Draw:
        """x is (T, K, 2): the place of an image in the pool and how far it is turned."""
        T, K, N = shape.tasks, shape.shots, shape.shots + shape.queries
        classes = distinct(rng, self.most_tasks, T)
        chosen = images_of(rng, self.pool, classes, N)
        angle, offset = 2 * np.pi * rng.random((T, N)), 2 * np.pi * rng.random((T, 1))
        x = np.stack([chosen, angle + offset], axis=-1)
        y = np.stack([np.cos(angle), np.sin(angle)], axis=-1).astype(np.float32)
        return Draw(x[:, :K], y[:, :K], x[:, K:], y[:, K:], classes)

    def fetch(self, x: np.ndarray) -> Tensor:
        """The turned images (B, N, C, H, W) of what was drawn, x (B, N, 2)."""
        images = self.pool.fetch(x[..., 0].astype(np.int64))
        cos, sin = np.cos(x[..., 1]), np.sin(x[..., 1])
        zero = np.zeros_like(cos)
        rows = [np.stack(row, axis=-1) for row in ((cos, sin, zero), (-sin, cos, zero), (zero, zero, zero + 1))]
        maps = torch.from_numpy(np.stack(rows, axis=-2)).to(images.device, torch.float32).flatten(0, 1)
        parts = zip(images.flatten(0, 1).split(TOGETHER), maps.split(TOGETHER), strict=True)
        turned = [(warped(part.to(torch.float32), own) + 0.5).to(torch.uint8) for part, own in parts]
        return torch.cat(turned).view(images.shape)
