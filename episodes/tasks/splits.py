"""Streams whose tasks are some classes of a pool: a few at random, again and again, or all of them, a few at a time."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from episodes.data.halves import halves
from episodes.data.identity import images_in_both
from episodes.data.pool import ClassPool
from episodes.errors import UserError, at_least, note
from episodes.rng import stream_numbers
from episodes.source import Part, Task
from episodes.tasks.parts import ImageStreamConfig, labelled, part_of, task_index
from episodes.types import EpisodeSpec, Examples


@dataclass(frozen=True)
class SplitsConfig(ImageStreamConfig):
    """A stream whose tasks are a few classes of a data set, drawn again and again."""

    classes: int = 2
    """Classes of a task of the stream."""
    labels: Literal["task", "class"] = "task"
    """`task`: the classes of each task of the stream are labelled 0, 1, ... anew. `class`: a class has one label in all tasks,
    so that tasks can be mixed."""
    images: int | None = None
    """Images of each class that are learnt from, the first of the data set. None: all."""

    def __post_init__(self) -> None:
        at_least(1, self, "stream.", "classes", "images")

    def load(self) -> "Splits":
        """The stream. Raises `UserError` where its data cannot be read or do not suffice."""
        return Splits(self.name, *halves(self.data, self.own, self.images), self.classes, self.labels == "class")


@dataclass(frozen=True)
class IncrementalConfig(ImageStreamConfig):
    """A stream in which the classes of a data set arrive a few at a time."""

    classes: int = 5
    """Classes that are new in each task of the stream."""
    cumulative: bool = True
    """A task of the stream has the images of all classes so far, as published, not those of the new ones alone."""
    images: int | None = None
    """Images of each class that are learnt from, the first of the data set. None: all."""

    def __post_init__(self) -> None:
        at_least(1, self, "stream.", "classes", "images")

    def load(self) -> "Incremental":
        """The stream. Raises `UserError` where its data cannot be read or do not suffice."""
        return Incremental(self.name, *halves(self.data, self.own, self.images), self.classes, self.cumulative)


class Splits:
    """A few classes of a pool in each task: drawn at random, again and again, and labelled 0, 1, ... in the order drawn.

    Arguments:
        train, held_out: two pools of the same classes, with other images.
        classes: how many a task has.
        own_labels: a class has its place in the pool as its label, in every task.

    Raises:
        UserError: the pools have other classes, or too few.
    """

    most_tasks: int | None = None

    def __init__(self, name: str, train: ClassPool, held_out: ClassPool, classes: int = 2, own_labels: bool = False):
        same_classes(train, held_out)
        if len(train.names) < classes:
            raise UserError(
                f"A task has {classes} classes, but {train.source} has {len(train.names)} in all. Take another data set."
            )
        self.name, self.pools, self.classes, self.own_labels = name, (train, held_out), classes, own_labels
        symbols = len(train.names) if own_labels else classes
        self.spec = EpisodeSpec(train.x_kind, train.x_shape, "cross_entropy", symbols=symbols)
        self.fingerprint = f"{name}-1/{train.fingerprint}/{held_out.fingerprint}/{classes}"
        self.fingerprint += "/own labels" if own_labels else ""

    def task(self, seed: int, index: int) -> Task:
        chosen = self.task_classes(seed, index)
        labels = chosen if self.own_labels else np.arange(len(chosen))
        return Task(*(mixed(pool, chosen, self.name, seed, index, labels) for pool in self.pools))

    def task_classes(self, seed: int, index: int) -> np.ndarray:
        """The classes (of the pool) of a task; the place of each is its label."""
        return stream_numbers(self.name, seed, "classes", index).permutation(len(self.pools[0].names))[: self.classes]

    def shared_images(self) -> list[str]:
        """A sentence on images that are learnt from and held out too."""
        return [words] if (words := images_in_both(*self.pools)) else []


class Incremental(Splits):
    """Classes arrive a few at a time and keep their labels, which say when they came; the order is drawn by the seed. It ends
    with the last class; what is left where their number is no multiple of `classes` is in no task, which is said.

    A learner knows of all symbols from the start. Whether those still to come may be an answer is a question of evaluation.

    Arguments:
        classes: how many are new in each task.
        cumulative: a task has the images of all classes so far (the paper's code), not of the new ones alone.
    """

    def __init__(self, name: str, train: ClassPool, held_out: ClassPool, classes: int = 5, cumulative: bool = True):
        super().__init__(name, train, held_out, classes)
        if left := len(train.names) % classes:
            note(
                f"{left} of the {len(train.names)} classes of {train.source} are in no task, other ones for each seed: a task "
                f"has {classes} new ones."
            )
        self.cumulative, self.most_tasks = cumulative, len(train.names) // classes
        self.spec = EpisodeSpec(train.x_kind, train.x_shape, "cross_entropy", symbols=self.most_tasks * classes)
        self.fingerprint += f"/incremental/{cumulative}"

    def task(self, seed: int, index: int) -> Task:
        so_far = self.task_classes(seed, index)
        first = 0 if self.cumulative else len(so_far) - self.classes
        labels = np.arange(first, len(so_far))
        return Task(*(mixed(pool, so_far[first:], self.name, seed, index, labels) for pool in self.pools))

    def task_classes(self, seed: int, index: int) -> np.ndarray:
        """All classes so far, in the order in which they came."""
        classes, most = len(self.pools[0].names), self.spec.symbols // self.classes
        if index >= most:
            raise UserError(
                f"{self.name} runs out of data: {classes} classes are {most} tasks of {self.classes}, so there is no task "
                f"{index + 1}. Ask for --tasks {most} or fewer."
            )
        return stream_numbers(self.name, seed, "classes", 0).permutation(classes)[: (index + 1) * self.classes]


def mixed(pool: ClassPool, classes: np.ndarray, name: str, seed: int, index: int, labels: np.ndarray) -> Part:
    """The images of some classes of a pool in random order, as a half of task `index` of the stream `name`.

    Arguments:
        labels: of each of `classes`.
    """
    images, y = labelled(pool, classes)
    order = stream_numbers(name, seed, "order", index).permutation(len(y))

    def fetched(chosen: np.ndarray) -> Examples:
        x = pool.fetch(images[chosen][None])
        return Examples(x, torch.from_numpy(labels[y[chosen]])[None].to(x.device), task_index(index, chosen, x))

    return part_of(order, fetched)


def same_classes(train: ClassPool, held_out: ClassPool) -> None:
    """Raises `UserError` where two pools have other classes."""
    if train.names != held_out.names:
        missing = sorted(set(train.names) ^ set(held_out.names))
        raise UserError(
            f"{train.source} and {held_out.source} have other classes: {', '.join(missing[:3])} is in one of them only. "
            "Both splits need images of every class."
        )
