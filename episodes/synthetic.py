"""Named benchmarks without a data set: their tasks are drawn from nothing, and for each episode anew."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from episodes.tasks.family import TaskFamily
from episodes.tasks.recall import Recall
from episodes.tasks.regression import RegressionEpisodes
from episodes.tasks.sine import Sine
from episodes.tasks.tracking import Tracking
from episodes.types import EpisodeShape


@dataclass(frozen=True)
class Synthetic:
    """A benchmark without a data set."""

    fingerprint: str
    """Another one where the same address gives other episodes."""
    held_out: Callable[[int], TaskFamily]
    """From the label symbols of an episode to the family of meta-validation and meta-test."""
    train: Callable[[int], TaskFamily] | None = None
    """The same of meta-train; None: it is of the same family."""
    shape: EpisodeShape = field(default_factory=EpisodeShape)
    """How large its episodes are where nothing is said."""

    def families(self, vocabulary: int) -> tuple[TaskFamily, TaskFamily]:
        """Of meta-train, and of meta-validation and meta-test."""
        return (self.train or self.held_out)(vocabulary), self.held_out(vocabulary)


def _recall(name: str, noise: float, shape: EpisodeShape) -> Synthetic:
    return Synthetic(f"{name}-1", lambda vocabulary: Recall(vocabulary, noise), shape=shape)


def _tracking(name: str, places: int) -> Synthetic:
    """Eight swaps, as many queries as places. In meta-train some steps are rests."""
    family, shape = partial(Tracking, places), EpisodeShape(tasks=1, shots=places + 8, queries=places)
    return Synthetic(f"{name}-1", lambda _: family(), lambda _: family(rests=True), shape)


SYNTHETIC: dict[str, Synthetic] = {
    "sine": Synthetic("sine-1", lambda _: Sine()),
    "slowly-changing-regression": Synthetic("slowly-changing-regression-episodes-1", lambda _: RegressionEpisodes()),
    "recall": _recall("recall", 0.0, EpisodeShape(tasks=16, shots=1, queries=1)),
    "noisy-recall": _recall("noisy-recall", 0.5, EpisodeShape(tasks=16, shots=1, queries=5)),
    "tracking": _tracking("tracking", 3),
    "tracking-5": _tracking("tracking-5", 5),
}
"""By name."""


def usual_shape(name: str) -> EpisodeShape:
    """How large the episodes of a data set are where nothing is said: of most data sets 5 tasks of 5 shots and 5 queries."""
    return SYNTHETIC[name].shape if name in SYNTHETIC else EpisodeShape()
