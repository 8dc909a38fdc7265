"""Streams whose tasks are all images of a pool, under a new permutation of their pixels, of their labels or of both."""

from dataclasses import dataclass

import numpy as np
import torch
from tyro.conf import Suppress

from episodes.data.halves import published_halves
from episodes.data.identity import images_twice
from episodes.data.pool import ClassPool
from episodes.errors import UserError, at_least
from episodes.rng import stream_numbers
from episodes.source import Task
from episodes.tasks.parts import ImageStreamConfig, labelled, part_of, task_index
from episodes.types import EpisodeSpec, Examples


@dataclass(frozen=True)
class PermutedConfig(ImageStreamConfig):
    """A stream whose tasks are all images of a data set, under a new permutation of their pixels or labels.

    As published, each task holds out other images. So from the second task on nearly all held-out images have been trained on
    in earlier tasks: under other labels, or with their pixels in another order. `unseen` holds out the same ones in all tasks.
    """

    pixels: Suppress[bool] = True
    """The pixels of the images are permuted."""
    labels: Suppress[bool] = False
    """The labels of the images are permuted."""
    flat: Suppress[bool] = True
    """The inputs are vectors of pixels, not images."""
    held_out: int | None = None
    """Held-out images of a task of the stream, which are not learnt from in it. None: one image in thirty."""
    unseen: bool = False
    """The same images are held out in every task and for all seeds, so that no task learns from them. As published each task
    draws them anew."""
    images: int | None = None
    """Images of each class that the stream has, the first of the data set. None: all."""

    def __post_init__(self) -> None:
        at_least(1, self, "stream.", "held_out", "images")

    def load(self) -> "Permuted":
        """The stream. Raises `UserError` where its data cannot be read or do not suffice."""
        pool = published_halves(self.data, self.own, self.images)[0].first(self.images)
        return Permuted(self.name, pool, self.pixels, self.labels, self.flat, self.held_out, self.unseen)


class Permuted:
    """All images of a pool in each task, in a new order, under a new permutation of their pixels, of their labels or of both.

    Arguments:
        pool: the images, all of which are in each task.
        pixels, labels: whether these are permuted.
        flat: inputs are vectors, pixels in [0, 1] where they were images; else they stay images, whose labels can be permuted.
        held_out: how many images of each task, the last ones, are held out; None: one in thirty.
        unseen: they are the same in every task and for every seed, so that no rate is chosen by them; otherwise each task draws
            them anew.

    Raises:
        UserError: no image is left to learn from.
    """

    most_tasks: int | None = None

    def __init__(
        self,
        name: str,
        pool: ClassPool,
        pixels: bool = True,
        labels: bool = False,
        flat: bool = True,
        held_out: int | None = None,
        unseen: bool = False,
    ):
        self.name, self.pool, self.pixels, self.labels, self.flat = name, pool, pixels, labels, flat
        self.unseen, self.pools = unseen, (pool,)
        self.images, self.y = labelled(pool, range(len(pool.names)))
        self.held_out = max(1, len(self.y) // 30) if held_out is None else held_out
        if len(self.y) <= self.held_out:
            raise UserError(f"{pool.source} has {len(self.y)} images: too few for {self.held_out} held-out ones in each task.")
        shape = (int(np.prod(pool.x_shape)),) if flat else pool.x_shape
        self.spec = EpisodeSpec("vector" if flat else pool.x_kind, shape, "cross_entropy", symbols=len(pool.names))
        self.fingerprint = f"{name}-1/{pool.fingerprint}/{pixels}/{labels}/{flat}/{self.held_out}"
        self.fingerprint += "/unseen-2" if unseen else ""

    def task(self, seed: int, index: int) -> Task:
        train, held_out = self.halves(seed, index)
        pixels, labels = self.permutations(seed, index)

        def fetched(chosen: np.ndarray) -> Examples:
            x = self.pool.fetch(self.images[chosen][None])
            if self.flat:
                x = x.flatten(2)[..., torch.from_numpy(pixels).to(x.device)]
                x = x.float() / 255 if self.pool.x_kind == "image" else x
            return Examples(x, torch.from_numpy(labels[self.y[chosen]])[None].to(x.device), task_index(index, chosen, x))

        return Task(part_of(train, fetched), part_of(held_out, fetched))

    def halves(self, seed: int, index: int) -> tuple[np.ndarray, np.ndarray]:
        """The places (in `images`) that a task is learnt from, and those that it holds out."""
        images = len(self.y)
        order = stream_numbers(self.name, seed, "order", index).permutation(images)
        if not self.unseen:
            return order[: images - self.held_out], order[images - self.held_out :]
        apart = np.zeros(images, dtype=bool)
        apart[stream_numbers(self.name, 0, "held out", 0).permutation(images)[: self.held_out]] = True
        return order[~apart[order]], order[apart[order]]

    def shared_images(self) -> list[str]:
        """A sentence on images that are in the pool twice, so that one may be learnt from and its double held out."""
        return [words] if (words := images_twice(self.pools[0])) else []

    def permutations(self, seed: int, index: int) -> tuple[np.ndarray, np.ndarray]:
        """The places from which the pixels of a task are taken, and the label that each class has in it."""
        pixels, labels = int(np.prod(self.pool.x_shape)), len(self.pool.names)
        rng = stream_numbers(self.name, seed, "permutations", index)
        drawn = rng.permutation(pixels), rng.permutation(labels)
        return drawn[0] if self.pixels else np.arange(pixels), drawn[1] if self.labels else np.arange(labels)
