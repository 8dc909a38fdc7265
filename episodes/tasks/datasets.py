"""Streams whose tasks are whole data sets, one after another, as the 5-Datasets benchmark (Ebrahimi et al., ECCV 2020)."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from tyro.conf import Suppress

from episodes.data.config import DataConfig
from episodes.data.halves import CIFAR100, GLYPHS, MNIST, TINY_IMAGENET, HubImages, halves
from episodes.data.identity import images_in_both
from episodes.data.places import name_of
from episodes.data.pool import ClassPool
from episodes.errors import UserError, note
from episodes.rng import stream_numbers
from episodes.source import Task
from episodes.tasks.across import same_labels
from episodes.tasks.parts import ImageStreamConfig
from episodes.tasks.splits import mixed, same_classes
from episodes.types import EpisodeSpec

OWN = {own.hub: own for own in (CIFAR100, MNIST, TINY_IMAGENET, GLYPHS)}
"""Data sets whose columns are known, by name; of others they are found."""
Pair = tuple[ClassPool, ClassPool]
"""Of a data set the images to learn from, and those held out."""
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
    shared_classes: bool = False
    """Domain-incremental: each data set has the same classes under the same labels, those whose names all of them have. Else
    classes are of one data set alone, whatever they are called."""

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
        return Datasets(self.name, self._with_shared_classes(pairs) if self.shared_classes else pairs, self.shared_classes)

    def _with_shared_classes(self, pairs: list[Pair]) -> list[Pair]:
        """The classes that all data sets have. Raises `UserError` where there are none or only one, or where the two pools of a
        data set have others."""
        for pair in pairs:
            same_classes(*pair)
        labels = [_labels(train, word) for (train, _), word in zip(pairs, self.sets, strict=True)]
        classes_CD = same_labels(labels)
        more = {name_of(word): len(own) - len(classes_CD) for own, word in zip(labels, self.sets, strict=True)}
        left = [f"{number} class{'es' * (number > 1)} of {name}" for name, number in more.items() if number]
        if len(classes_CD) < 2:
            raise UserError(
                f"--stream.shared-classes needs two classes or more whose names all data sets have, and there are "
                f"{len(classes_CD)}: one of {self.sets[0]} is called {next(iter(labels[0]))!r}. Name them alike in all of them."
            )
        if left:
            note(f"{len(classes_CD)} classes are in all data sets. Left out: {', '.join(left)}.")
        return [
            (train.select(own_C), held_out.select(own_C)) for (train, held_out), own_C in zip(pairs, classes_CD.T, strict=True)
        ]


class Datasets:
    """Each task is a data set with classes of its own, whose labels follow those of the tasks before; the order is drawn by the
    seed. It ends with the last data set.

    Arguments:
        pairs: of each data set two pools of the same classes: the images to learn from, and those held out.
        shared_classes: class c of each data set is class c of all, so that labels are the same in each task.

    Raises:
        UserError: the two pools of a data set have other classes, or inputs are not alike.
    """

    most_tasks: int | None

    def __init__(self, name: str, pairs: Sequence[Pair], shared_classes: bool = False):
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
        self.shared_classes, sizes = shared_classes, [len(train.names) for train, _ in pairs]
        if shared_classes and len(set(sizes)) > 1:
            raise UserError(f"Data sets that share their classes have as many classes each, not {sizes}. Select them alike.")
        classes = sizes[0] if shared_classes else sum(sizes)
        self.spec = EpisodeSpec(first.x_kind, first.x_shape, "cross_entropy", symbols=classes)
        self.fingerprint = f"{name}-1/{'/'.join(pool.fingerprint for pool in self.pools)}"
        self.fingerprint += "/shared classes" if shared_classes else ""

    def order(self, seed: int) -> np.ndarray:
        """The data sets, by their places in `pairs`, in the order in which they come."""
        return stream_numbers(self.name, seed, "classes", 0).permutation(len(self.pairs))

    def task(self, seed: int, index: int) -> Task:
        if index >= len(self.pairs):
            raise UserError(f"{self.name} runs out of data: it has {len(self.pairs)} data sets, so no task {index + 1}.")
        so_far = [self.pairs[place] for place in self.order(seed)[: index + 1]]
        sizes = [len(train.names) for train, _ in so_far]
        classes, first = np.arange(sizes[-1]), 0 if self.shared_classes else sum(sizes[:-1])
        return Task(*(mixed(pool, classes, self.name, seed, index, first + np.arange(len(classes))) for pool in so_far[-1]))

    def shared_images(self) -> list[str]:
        """Sentences on images that are learnt from and held out too."""
        return [words for pair in self.pairs if (words := images_in_both(*pair))]


def _labels(pool: ClassPool, word: str) -> dict[str, int]:
    """The labels of a data set, without its name, and their places."""
    own = next(own for own in (word, name_of(word)) if all(name.startswith(f"{own}/") for name in pool.names))
    return {name.removeprefix(f"{own}/"): place for place, name in enumerate(pool.names)}


def _words(pool: ClassPool) -> str:
    return f"{' x '.join(map(str, pool.x_shape))} ({pool.x_kind}s)"
