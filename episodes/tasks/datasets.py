"""Streams whose tasks are whole data sets, one after another, as the 5-Datasets benchmark (Ebrahimi et al., ECCV 2020)."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from tyro.conf import Suppress

from episodes.data.config import DataConfig
from episodes.data.halves import CIFAR100, GLYPHS, MNIST, TINY_IMAGENET, HubImages, halves
from episodes.data.identity import images_in_both
from episodes.data.pool import ClassPool
from episodes.errors import UserError, note
from episodes.rng import stream_numbers
from episodes.source import Task
from episodes.tasks.parts import ImageStreamConfig
from episodes.tasks.splits import mixed, same_classes
from episodes.types import EpisodeSpec

OWN = {own.hub: own for own in (CIFAR100, MNIST, TINY_IMAGENET, GLYPHS)}
"""Data sets whose columns are known, by name; of others they are found."""
ANY = HubImages("", 32, 3)
"""What images are brought to where nothing else is asked."""


@dataclass(frozen=True)
class EachData(DataConfig):
    """How each of the data sets is read."""

    name: Suppress[str] = ""
    path: Suppress[str | None] = None
    image: Suppress[str | None] = None
    label: Suppress[str | None] = None
    without: Suppress[tuple[str, ...]] = ()
    target: Suppress[tuple[str, ...]] = ()
    also: Suppress[tuple[str, ...]] = ()
    source: Suppress[str | None] = None
    split: Suppress[str | None] = None
    configuration: Suppress[str | None] = None


@dataclass(frozen=True)
class DatasetsConfig(ImageStreamConfig):
    """A stream whose tasks are data sets."""

    data: EachData
    """How each of the data sets is read."""
    sets: tuple[str, ...] = ()
    """The data sets, two or more: folders, files and names of the hub. Each is a task. Images of all become 3 x 32 x 32, unless
    --stream.data.size or --stream.data.channels say otherwise."""

    def load(self) -> "Datasets":
        """The stream. Raises `UserError` where a data set cannot be read, or is of another kind than the others."""
        if len(self.sets) < 2 or len(set(self.sets)) < len(self.sets):
            given = " ".join(self.sets) or "none"
            raise UserError(f"--stream.sets needs two data sets or more, each once, not {given}. Folders, files, hub names.")
        if self.data.path is not None:
            raise UserError(f"--data.path means nothing for {self.name}, which has several data sets; leave it out.")
        size, channels = self.data.size or self.own.size, self.data.channels or self.own.channels
        data = replace(self.data, size=size, channels=channels)
        pairs = [halves(replace(data, name=name), OWN.get(name, self.own)) for name in self.sets]
        if pairs[0][0].x_kind == "image":
            note(f"The images of all {len(pairs)} data sets are brought to {channels} x {size} x {size}.")
        return Datasets(self.name, pairs)


class Datasets:
    """Each task is a data set with classes of its own, whose labels follow those of the tasks before; the order is drawn by the
    seed. It ends with the last data set.

    Arguments:
        pairs: of each data set two pools of the same classes: the images to learn from, and those held out.

    Raises:
        UserError: the two pools of a data set have other classes, or inputs are not alike.
    """

    most_tasks: int | None

    def __init__(self, name: str, pairs: Sequence[tuple[ClassPool, ClassPool]]):
        for train, held_out in pairs:
            same_classes(train, held_out)
        self.pools = tuple(pool for pair in pairs for pool in pair)
        first = self.pools[0]
        for pool in self.pools:
            if (pool.x_kind, pool.x_shape) != (first.x_kind, first.x_shape):
                raise UserError(
                    f"{first.source} has inputs of {_words(first)}, {pool.source} of {_words(pool)}: they must be alike. For "
                    "grey images, as glyphs are, give --stream.data.channels 1."
                )
        self.name, self.pairs, self.most_tasks = name, tuple(pairs), len(pairs)
        classes = sum(len(train.names) for train, _ in pairs)
        self.spec = EpisodeSpec(first.x_kind, first.x_shape, "cross_entropy", symbols=classes)
        self.fingerprint = f"{name}-1/{'/'.join(pool.fingerprint for pool in self.pools)}"

    def order(self, seed: int) -> np.ndarray:
        """The data sets, by their places in `pairs`, in the order in which they come."""
        return stream_numbers(self.name, seed, "classes", 0).permutation(len(self.pairs))

    def task(self, seed: int, index: int) -> Task:
        if index >= len(self.pairs):
            raise UserError(f"{self.name} runs out of data: it has {len(self.pairs)} data sets, so no task {index + 1}.")
        so_far = [self.pairs[place] for place in self.order(seed)[: index + 1]]
        sizes = [len(train.names) for train, _ in so_far]
        classes, first = np.arange(sizes[-1]), sum(sizes[:-1])
        return Task(*(mixed(pool, classes, self.name, seed, index, first + np.arange(len(classes))) for pool in so_far[-1]))

    def shared_images(self) -> list[str]:
        """Sentences on images that are learnt from and held out too."""
        return [words for pair in self.pairs if (words := images_in_both(*pair))]


def _words(pool: ClassPool) -> str:
    return f"{' x '.join(map(str, pool.x_shape))} ({pool.x_kind}s)"
