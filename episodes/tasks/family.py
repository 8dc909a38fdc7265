"""A family of tasks: what a task is, and how the examples of an episode are drawn."""

from typing import NamedTuple, Protocol

import numpy as np
from torch import Tensor

from episodes.types import EpisodeShape, EpisodeSpec


class Draw(NamedTuple):
    """One episode before its inputs are fetched. The inputs are pool indices or finished vectors, a row for each task."""

    stream_x: np.ndarray
    """(T, K) pool indices or (T, K, F)."""
    stream_y: np.ndarray
    """(T, K) symbols or (T, K, F)."""
    query_x: np.ndarray
    query_y: np.ndarray
    classes: np.ndarray | None = None
    """(T,) the number of each task's class in its meta-split; None where a task is no class."""


class TaskFamily(Protocol):
    """What an `EpisodeGenerator` asks of a family.

    The shape that it is asked for is that of rows of examples, each about one thing, which a schedule makes tasks of
    (`episodes.arrange`). A family with `ordered = True` has no schedule: its examples mean something else in another order.
    """

    @property
    def spec(self) -> EpisodeSpec:
        """What a learner must know of the episodes."""
        ...

    @property
    def most_tasks(self) -> int | None:
        """Tasks that an episode can have; None: any number."""
        ...

    def check(self, shape: EpisodeShape) -> None:
        """Raises `UserError` when episodes of this shape cannot be drawn."""
        ...

    def draw(self, rng: np.random.Generator, shape: EpisodeShape) -> Draw:
        """An episode, a function of `rng` and `shape` alone."""
        ...

    def fetch(self, x: np.ndarray) -> Tensor:
        """The inputs (B, N, *x_shape) for drawn `x` of shape (B, N, ...)."""
        ...
