"""The types that everything else passes on: examples, episodes and what a learner must know of them.

Shape letters, the same in every file: B episodes in a batch, N stream examples, M queries, T tasks, K shots,
V label symbols, D model width, H heads, E head width, C channels.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor

from episodes.errors import at_least


@dataclass(frozen=True)
class EpisodeShape:
    """How large an episode is: T tasks one after another, K stream examples and Q queries of each."""

    tasks: int = 5
    """Tasks of an episode (T), one after another. A task is one class of a data set; in recall a key with its symbol, in
    tracking a tray."""
    shots: int = 5
    """Examples of each task (K) that an episode has to learn from, in a row."""
    queries: int = 5
    """Queries of each task (Q), which an episode asks after its last task."""
    vocabulary: int = 64
    """Label symbols from which an episode draws one for each of its classes, or keys; V is this number, or T where T is larger.
    In regression and in tracking it means nothing."""

    def __post_init__(self) -> None:
        at_least(1, self, "episodes.", "tasks", "shots", "queries", "vocabulary")

    @property
    def symbols(self) -> int:
        """V: episodes of more tasks than the vocabulary has symbols widen it."""
        return max(self.vocabulary, self.tasks)


@dataclass(frozen=True)
class EpisodeSpec:
    """What a learner must know of its episodes to be built."""

    x_kind: Literal["image", "vector"]
    """What an input is: an image, uint8 (C, height, width), or a vector, float32 (F,)."""
    x_shape: tuple[int, ...]
    """Shape of an input."""
    loss: Literal["cross_entropy", "mse"]
    """What answers are scored by. `cross_entropy`: targets are symbols (int64); `mse`: float32 vectors of shape `y_shape`."""
    symbols: int = 0
    """Label symbols in classification (V); 0 in regression."""
    y_shape: tuple[int, ...] = ()
    """Shape of a target in regression; empty in classification."""

    @property
    def classification(self) -> bool:
        return self.loss == "cross_entropy"

    @property
    def outputs(self) -> int:
        """Width of an answer: V logits, or a target laid flat."""
        return self.symbols if self.classification else math.prod(self.y_shape)


@dataclass(frozen=True)
class Examples:
    """Labelled examples of B episodes, in stream order."""

    x: Tensor
    """(B, N, *x_shape), uint8 images or float32 vectors."""
    y: Tensor
    """(B, N) int64 symbols, or (B, N, *y_shape) float32."""
    task: Tensor
    """(B, N) int64, the index of each example's task. Learners may use it in meta-training only."""
    valid: Tensor | None = None
    """(B, N) bool; False marks padding, which no learner may notice. None: all are valid."""

    def __len__(self) -> int:
        """N, the examples of one episode."""
        return self.x.shape[1]

    def __getitem__(self, part: slice | Tensor) -> "Examples":
        """The examples at the positions `part` of every episode."""
        return self._map(lambda t: t[:, part])

    def row(self, b: int) -> "Examples":
        """The examples of episode b alone, B = 1."""
        return self._map(lambda t: t[b : b + 1])

    @staticmethod
    def concatenate(parts: "Sequence[Examples]") -> "Examples":
        """One stream after another. All of them have `valid`, or none."""
        x, y, task = (torch.cat([getattr(part, name) for part in parts], dim=1) for name in ("x", "y", "task"))
        valid = [part.valid for part in parts if part.valid is not None]
        return Examples(x, y, task, torch.cat(valid, dim=1) if valid else None)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> "Examples":
        return self._map(lambda t: t.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> "Examples":
        return self._map(lambda t: t.pin_memory() if t.device.type == "cpu" else t)

    def _map(self, change: Callable[[Tensor], Tensor]) -> "Examples":
        return Examples(change(self.x), change(self.y), change(self.task), None if self.valid is None else change(self.valid))


@dataclass(frozen=True)
class Episode:
    """A batch of B continual-learning problems: a stream to learn from, then queries."""

    stream: Examples
    queries: Examples
    spec: EpisodeSpec

    def first_tasks(self, tasks: int) -> "Episode":
        """The same episodes without what belongs to later tasks."""
        stream, queries = (part[part.task[0] < tasks] for part in (self.stream, self.queries))
        return Episode(stream, queries, self.spec)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> "Episode":
        return Episode(self.stream.to(device, non_blocking), self.queries.to(device, non_blocking), self.spec)

    def pin_memory(self) -> "Episode":
        return Episode(self.stream.pin_memory(), self.queries.pin_memory(), self.spec)


class Part:
    """Examples of a task that are made when they are looked at: `part[a:b]`.

    Arguments:
        length: how many examples of each row there are (N).
        fetch: the examples at some places, a slice with start, stop and step within the length.
    """

    def __init__(self, length: int, fetch: Callable[[slice], Examples]):
        self._length, self._fetch = length, fetch

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, part: slice) -> Examples:
        return self._fetch(slice(*part.indices(self._length)))


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
