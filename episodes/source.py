"""What is followed: tasks, each two halves of examples that are made when they are looked at, and where they come from."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from episodes.types import EpisodeSpec, Examples


class Part:
    """Examples of a task that are made when they are looked at: `part[a:b]`.

    Arguments:
        length: how many examples of each row there are (N).
        fetch: the examples at some places, a slice with start, stop and step within the length.
        take: the examples at any places (N,), in their order; None: run by run of places that follow each other.
    """

    def __init__(self, length: int, fetch: Callable[[slice], Examples], take: Callable[[np.ndarray], Examples] | None = None):
        self._length, self._fetch, self._take = length, fetch, take

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, part: slice) -> Examples:
        return self._fetch(slice(*part.indices(self._length)))

    def take(self, places: np.ndarray) -> Examples:
        """The examples at some places (N,), at least one, in this order."""
        runs = np.split(places, np.flatnonzero(np.diff(places) != 1) + 1)
        if self._take is not None and len(runs) > 1:
            return self._take(places)
        return Examples.concatenate([self[int(run[0]) : int(run[-1]) + 1] for run in runs])


@dataclass(frozen=True)
class Task:
    """A task: examples to learn from, in their order, and others to be asked about. Both have B rows side by side.

    A half of either type has a length (N) and gives `Examples` for a slice: `task.train[:100]`.
    """

    train: Part | Examples
    held_out: Part | Examples


class Source(Protocol):
    """Tasks to follow, one after another, for B rows side by side: a batch of episodes, or a stream for some seeds.

    What of the examples arrives together in time is not the source's: see `episodes.schedule.Schedule`.
    """

    @property
    def name(self) -> str: ...

    @property
    def spec(self) -> EpisodeSpec: ...

    @property
    def most_tasks(self) -> int | None:
        """Tasks before it runs out of data; None: endless."""
        ...

    @property
    def rows(self) -> int:
        """B, the rows of every task."""
        ...

    def task(self, index: int) -> Task:
        """Task `index`, from 0. Raises `UserError` past the last."""
        ...
