"""Intervals over the classes, and the seeds, that an evaluation happened to have: the bootstrap (Efron 1979).

The classes of a meta-test are a sample of all classes that a learner might meet. Episodes can be drawn without end from the
same few classes, so an interval over episodes says how well the mean over *these* classes is known, and no more. Here classes
are drawn again and again instead, with replacement, and all that was measured on a class comes with it; the half width of the
95 % interval is 1.96 times the standard deviation of the means that are found. Of n classes n - 1 are drawn each time: then the
variance is that of a sample (n draws make it too small by (n - 1) / n).

Where a mean is over several seeds (of meta-training, of episodes), seeds are drawn too, apart from the classes; the weight
of a result is the product of those of its seeds (Owen 2007). Two or three seeds hardly tell how much seeds differ, so what they
add to such an interval is rough.

Few classes make it somewhat too narrow, as any normal approximation: in 300 simulated evaluations each, whose true mean was
known, it held that in 88 % with 8 classes, and in 93 % with 30.

Not in these intervals: that a class is also what others are mistaken for. It counts where it is the task that is asked about.
"""

import math
from collections.abc import Hashable, Sequence
from typing import NamedTuple

import numpy as np
from torch import Tensor

RESAMPLES = 2_000
"""How often classes are drawn; the half width is then known to some 2 %."""


class ClassSums(NamedTuple):
    """What was measured on each class, by the number of the class."""

    sums_C: np.ndarray
    """The sum of a measure over the tasks of the class."""
    tasks_C: np.ndarray
    """How many tasks that are; 0: the class did not occur."""

    def to_json(self) -> dict[str, str]:
        """Numbers with a space between them, six digits each: a list of them would be several times as long."""
        return {"sums": " ".join(f"{value:.6g}" for value in self.sums_C), "tasks": " ".join(map(str, self.tasks_C))}

    @staticmethod
    def read(values: dict[str, str]) -> "ClassSums":
        """From what `to_json` made."""
        return ClassSums(np.array(values["sums"].split(), dtype=float), np.array(values["tasks"].split(), dtype=int))


def by_class(values_Et: Tensor, class_Et: Tensor) -> ClassSums:
    """The sums of a measure of E episodes of t tasks, task (e, i) being of the class `class_Et[e, i]`, a number from 0."""
    numbers = class_Et.flatten().numpy()
    return ClassSums(np.bincount(numbers, values_Et.double().flatten().numpy()), np.bincount(numbers))


def half_widths(measures: Sequence[ClassSums]) -> list[float]:
    """Half of the 95 % interval of the mean of each measure over its tasks, classes drawn again; NaN of one class."""
    means_KR = _resampled_means(measures)
    return [_half_width(means_R) for means_R in means_KR]


def half_width_over_seeds(results: Sequence[ClassSums], seeds: Sequence[tuple[Hashable, ...]]) -> float:
    """Half of the 95 % interval of the mean over results of their means over tasks, classes and seeds drawn again.

    Arguments:
        results: the same measure of the same classes, of each result.
        seeds: the seeds of each result, one of each kind, such as (seed of the meta-training, seed of the episodes).
    """
    weights_GR = np.ones((len(results), RESAMPLES))
    for kind, own in enumerate(zip(*seeds, strict=True)):
        names = list(dict.fromkeys(own))
        if len(names) > 1:
            drawn_RN = _draws(len(names), kind + 1)
            weights_GR *= drawn_RN[:, [names.index(name) for name in own]].T
    means_GR, total_R = _resampled_means(results), weights_GR.sum(0)
    with np.errstate(invalid="ignore"):
        return _half_width((weights_GR * means_GR).sum(0) / total_R)


def classes_in(measure: ClassSums) -> int:
    """How many classes occurred."""
    return int((measure.tasks_C > 0).sum())


def _resampled_means(measures: Sequence[ClassSums]) -> np.ndarray:
    """(K, R) the mean of each of K measures in each of R draws of classes; NaN where none of its classes is drawn."""
    most = max(len(own.tasks_C) for own in measures)
    sums_KC, tasks_KC = (np.stack([np.pad(own[part], (0, most - len(own[part]))) for own in measures]) for part in (0, 1))
    there_C = tasks_KC.any(0)
    weights_RC = _draws(int(there_C.sum()), 0)
    with np.errstate(invalid="ignore", divide="ignore"):
        return (sums_KC[:, there_C] @ weights_RC.T) / (tasks_KC[:, there_C] @ weights_RC.T)


def _draws(number: int, kind: int) -> np.ndarray:
    """(R, number) how often each of so many is among number - 1 draws; the same whenever it is asked for."""
    rng = np.random.Generator(np.random.Philox(key=[number, kind]))
    return rng.multinomial(number - 1, np.full(number, 1 / number), RESAMPLES).astype(np.float64)


def _half_width(means_R: np.ndarray) -> float:
    finite = means_R[np.isfinite(means_R)]
    return 1.96 * float(finite.std()) if len(finite) > 1 else math.nan
