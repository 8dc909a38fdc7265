"""The types that everything else passes on: examples, episodes and what a learner must know of them.

Shape letters, the same in every file: B episodes in a batch, N stream examples, M queries, T tasks, K shots,
V label symbols, D model width, H heads, E head width, C channels.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from episodes.errors import UserError, at_least
from episodes.schedule import ScheduleConfig


@dataclass(frozen=True)
class EpisodeShape:
    """How large an episode is, T tasks with K stream examples and Q queries of each, and in which order its stream comes."""

    tasks: int = 5
    """Tasks of an episode (T), one after another. A task is one class of a data set, or some classes (`schedule`); in recall a
    key with its symbol, in tracking a tray."""
    shots: int = 5
    """Examples of each task (K) that an episode has to learn from, in a row; of tasks of several classes, of each class."""
    queries: int = 5
    """Queries of each task (Q), which an episode asks after its last task; of tasks of several classes, of each class."""
    vocabulary: int = 64
    """Label symbols from which an episode draws one for each of its classes, or keys; V is this number, or that of the classes
    where it is larger. In regression and in tracking it means nothing."""
    tasks_least: int | None = None
    """Meta-train on episodes of between so many tasks and all, each number as likely. None: always all, as in meta-validation
    and in evaluations."""
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)

    def __post_init__(self) -> None:
        at_least(1, self, "episodes.", "tasks", "shots", "queries", "vocabulary", "tasks_least")
        for name, least, most in (
            ("episodes.tasks-least", self.tasks_least, self.tasks),
            ("schedule.shots-least", self.schedule.shots_least, self.shots),
            ("schedule.recur", self.schedule.recur, self.tasks),
        ):
            if least is not None and least > most:
                what = "shots" if "shots" in name else "tasks"
                raise UserError(f"{name} {least} is more than there are {what}, {most}. Take {most} or less.")

    @property
    def symbols(self) -> int:
        """V: episodes of more classes than the vocabulary has symbols widen it."""
        return max(self.vocabulary, self.schedule.rows(self.tasks))

    @property
    def phase(self) -> int:
        """The length of a phase of the stream."""
        return self.schedule.classes * self.shots

    def fitting(self, rows: int | None) -> "EpisodeShape":
        """The shape with as many tasks as so many classes are enough for, where these are fewer than it has; None: no limit."""
        most = self.schedule.most_tasks(rows)
        return self if most is None else replace(self, tasks=max(1, min(self.tasks, most)))

    @property
    def drawn(self) -> "EpisodeShape":
        """What a family draws for it: rows of examples, each of one class, which the schedule arranges."""
        rounds = self.schedule.recur
        return EpisodeShape(self.schedule.rows(self.tasks), self.shots * rounds, self.queries * rounds, self.vocabulary)

    def to_json(self) -> dict[str, Any]:
        """How large the episodes of an evaluation are; their schedule where it is not one class after another."""
        size = {name: getattr(self, name) for name in ("tasks", "shots", "queries", "vocabulary")}
        return size | ({"schedule": vars(self.schedule)} if self.schedule.words() else {})


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
    """(B, N) int64, the task that each example is of, whenever it comes. Learners may use it in meta-training only."""
    valid: Tensor | None = None
    """(B, N) bool; False marks padding, which no learner may notice. None: all are valid."""

    def __len__(self) -> int:
        """N, the examples of one episode."""
        return self.x.shape[1]

    def __getitem__(self, part: slice | Tensor) -> "Examples":
        """The examples at the positions `part` of every episode."""
        return self._map(lambda t: t[:, part])

    def take(self, places: np.ndarray) -> "Examples":
        """The examples at some places (N,) of every episode, in this order."""
        return self[torch.from_numpy(places).to(self.x.device)]

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
    """A batch of B continual-learning problems: a stream to learn from, then queries.

    The stream has phases, as many as there are tasks: stretches, equally long in every row, after which questions may be asked.
    Where a task comes as a whole its phase has its examples and no others. Where the tasks of a stream are mixed a phase has
    examples of several, and what is said of the time just after a task is meant of the phase of its number.
    """

    stream: Examples
    queries: Examples
    spec: EpisodeSpec
    ends: tuple[int, ...] | None = None
    """Where each phase of the stream ends; phase t has the examples ends[t - 1], ..., ends[t] - 1 of every row. None: a phase
    ends where `task` changes, which it does at the same places in every row."""

    def phases(self) -> tuple[int, ...]:
        """`ends`, or what stands for None. Raises `UserError` where nobody says where the phases of mixed tasks end."""
        if self.ends is not None:
            return self.ends
        task, counts = torch.unique_consecutive(self.stream.task[0], return_counts=True)
        if len(task) != len(task.unique()):
            raise UserError(
                "The tasks of these episodes come mixed, or come back, and `Episode.ends` does not say where the phases of the "
                "stream end. Give it: as many places as there are tasks, the last of them the length of the stream."
            )
        return tuple(counts.cumsum(0).tolist())

    def first_tasks(self, tasks: int) -> "Episode":
        """The same episodes without later phases of the stream, and without what is asked of later tasks."""
        queries = self.queries[self.queries.task[0] < tasks]
        if self.ends is None:
            return Episode(self.stream[self.stream.task[0] < tasks], queries, self.spec)
        ends = self.ends[:tasks]
        return Episode(self.stream[: ends[-1] if ends else 0], queries, self.spec, ends)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> "Episode":
        return replace(self, stream=self.stream.to(device, non_blocking), queries=self.queries.to(device, non_blocking))

    def pin_memory(self) -> "Episode":
        return replace(self, stream=self.stream.pin_memory(), queries=self.queries.pin_memory())
