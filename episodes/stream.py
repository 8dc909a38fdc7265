"""Streams: task i is a function of (stream, seed, i) alone; and sources, which hand out tasks with B rows side by side.

Nothing is kept from one task of a stream to the next, so a stream is endless, can be entered anywhere, and is the same on
every machine.
"""

from collections.abc import Sequence
from typing import Protocol

import torch

from episodes.errors import UserError
from episodes.source import Part, Task
from episodes.types import Episode, EpisodeSpec, Examples


class Stream(Protocol):
    """Tasks one after another for each seed, made when they are asked for. `check_stream` holds what a stream owes."""

    name: str
    spec: EpisodeSpec
    most_tasks: int | None
    """Tasks before the stream runs out of data; None: endless."""
    fingerprint: str
    """Equal fingerprints, equal streams."""

    def task(self, seed: int, index: int) -> Task:
        """Task `index`, from 0, of the stream of this seed: one row (B = 1). Raises `UserError` past the last."""
        ...


def shared_images(stream: Stream) -> list[str]:
    """Sentences on identical images that a stream learns from and holds out; of one that cannot tell, none.

    Streams over images have a method of this name, which a stream of one's own may have too.
    """
    return list(getattr(stream, "shared_images", list)())


class SeededStream:
    """A source of tasks: one stream for each seed, side by side.

    Where classes are of unequal size, tasks are too: a half has as many examples as the least of the seeds' own.

    Arguments:
        seeds: one for each row; rows of equal seeds are equal.
    """

    def __init__(self, stream: Stream, seeds: Sequence[int]):
        self.stream, self.seeds = stream, tuple(seeds)
        self.name, self.spec, self.most_tasks, self.rows = stream.name, stream.spec, stream.most_tasks, len(self.seeds)

    def task(self, index: int) -> Task:
        """Task `index` of every seed, made here; its examples are fetched when they are looked at.

        Raises:
            UserError: the stream has no such task.
        """
        tasks = self._tasks(index)
        return Task(_beside([task.train for task in tasks]), _beside([task.held_out for task in tasks]))

    def left_out(self, tasks: int) -> str:
        """A sentence on the examples of the first tasks that some seeds leave out, since others have fewer; empty where there
        are none."""
        rows = [self._tasks(index) for index in range(tasks)] if len(set(self.seeds)) > 1 else []
        sizes = [[len(getattr(task, half)) for task in row] for row in rows for half in ("train", "held_out")]
        every, left = sum(map(sum, sizes)), sum(sum(own) - len(own) * min(own) for own in sizes)
        if not left:
            return ""
        return (
            f"{left} of {every} examples of {self.name} are left out: side by side, a task of each seed has as many as the "
            "shortest of that place. One seed at a time leaves out none."
        )

    def _tasks(self, index: int) -> list[Task]:
        return [self.stream.task(seed, index) for seed in self.seeds]


class EpisodeSource:
    """A source of tasks: a batch of episodes, phase by phase. What is learnt in phase t, of whatever tasks, is the training
    part of task t; the queries of a task are its held-out examples.

    Arguments:
        episode: B episodes whose queries are of the same tasks, in the same order.
        name: what the source is called in messages and results.
    """

    def __init__(self, episode: Episode, name: str = ""):
        self.episode, self.name, self.spec = episode, name, episode.spec
        self._ends = episode.phases()
        self.most_tasks, self.rows = len(self._ends), len(episode.stream.x)
        own = episode.stream.task[0].tolist()
        self._task = range(self.most_tasks) if episode.ends else [own[end - 1] for end in self._ends]

    def task(self, index: int) -> Task:
        """The examples of phase `index`, and the queries of the task of this number.

        Raises:
            UserError: the episodes have no such task.
        """
        if not 0 <= index < self.most_tasks:
            raise UserError(f"Task {index} is asked, but the episodes have {self.most_tasks}, from 0. Ask for fewer tasks.")
        start = self._ends[index - 1] if index else 0
        asked = self.episode.queries.task[0] == self._task[index]
        return Task(self.episode.stream[start : self._ends[index]], self.episode.queries[asked])


def side_by_side(parts: Sequence[Examples]) -> Examples:
    """The examples of several rows (one for each seed) as one batch; B is their number together."""
    x, y, task = (torch.cat([getattr(part, name) for part in parts]) for name in ("x", "y", "task"))
    return Examples(x, y, task)


def _beside(halves: Sequence[Part | Examples]) -> Part:
    """Halves of tasks side by side, as long as the shortest."""
    return Part(min(map(len, halves)), lambda where: side_by_side([half[where] for half in halves]))
