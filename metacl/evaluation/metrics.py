"""Measures of continual learning from the score matrix, and spreads. What the words of tables and pictures mean is said here.

A score is an accuracy, or a squared error, on the held-out examples of one task at one time of one episode (or stream). In
classification a question can be asked in two ways: as it is put to the learner (`as asked`), among all label symbols or among
those seen until it is asked (`Questions.among`), or among the labels that were known when its task was learnt, all others left
out of the answer (`known`).

    at the end      (`final`)         the score on each task after the last one, as asked
    just after      (`learned`)       the score on each task just after it was learnt, as asked
    interference    (`interference`)  known score just after a task was learnt - known score on it at the end
    forgetting      (`forgetting`)    score just after a task was learnt - score on it at the end, as asked

Interference and forgetting are means over all tasks but the last, which nothing follows; both are positive where a task got
worse, for errors too, and negative where it got better (forgetting is backward transfer with the other sign; Lopez-Paz and
Ranzato 2017). Forgetting has two parts. One is interference: what was learnt is damaged, old labels are taken for each other.
The other are answers that go to labels which came later. There is more to choose from, which makes the question harder for
anyone: a learner whose knowledge of a class never changes, such as a prototypical network, has an interference of exactly 0,
and forgets nevertheless. And a learner may lean towards the newest labels: a network that is trained online can forget all with
little interference. Where all tasks have the same labels, and there are no others, the two are equal; in regression there are
no labels, and no interference.

The reference is the time just after the task, not the best time as in Chaudhry et al. (2018): the best of several noisy scores
is above what it measures, so a learner that loses nothing would be said to forget.

Papers on classes that arrive task after task have names of their own (`incremental`): `final` is their FA, `learned` their AAT,
`forgetting` their BWT with the other sign.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from metacl.evaluation.resampling import by_class, half_widths


@dataclass(frozen=True)
class Estimate:
    """A mean, and half the width of its 95 % confidence interval.

    Where the classes of tasks are known the interval is over classes: what the mean could have been with other classes of the
    kind (see `resampling`). Else it is over episodes (or streams), by the normal approximation.
    """

    mean: float
    half_width: float
    """NaN where there is one episode (class) only."""
    std: float
    """Standard deviation between episodes: of single episodes, not of the mean."""

    def to_json(self) -> dict[str, float | None]:
        return {name: None if math.isnan(value) else value for name, value in vars(self).items()}

    def __str__(self) -> str:
        return f"{self.mean:.4f} ± {self.half_width:.4f}"


def deviation(values: Any, axis: int = 0) -> Any:
    """The standard deviation between rows, of a sample (n - 1): everything that is called a spread. NaN for one row."""
    values = np.asarray(values, dtype=np.float64)
    return values.std(axis, ddof=1) if values.shape[axis] > 1 else np.full_like(values.mean(axis), np.nan)


def estimate(values_E: Tensor) -> Estimate:
    """The mean over independent episodes, with its interval over them."""
    values_E = values_E.double()
    std = float(values_E.std()) if len(values_E) > 1 else math.nan
    return Estimate(float(values_E.mean()), 1.96 * std / len(values_E) ** 0.5, std)


def estimates(values_KEt: list[Tensor], class_KEt: list[Tensor] | None = None) -> list[Estimate]:
    """The mean of each of K measures over episodes and tasks.

    Arguments:
        values_KEt: (E, t) each, the value at each task of each episode; t is the measure's own.
        class_KEt: (E, t) each, the classes of these tasks; None: intervals are over episodes.
    """
    found = [estimate(values_Et.mean(1)) for values_Et in values_KEt]
    if class_KEt is None:
        return found
    widths = half_widths([by_class(*pair) for pair in zip(values_KEt, class_KEt, strict=True)])
    return [Estimate(own.mean, width, own.std) for own, width in zip(found, widths, strict=True)]


def measured(scores_ETT: Tensor, higher_is_better: bool, known_ETT: Tensor | None = None) -> dict[str, Tensor]:
    """The measures of each task of each episode, as defined above.

    Arguments:
        scores_ETT: score on task i (last axis) after learning task t, for i <= t; the rest is not looked at.
        higher_is_better: True for accuracy, False for an error.
        known_ETT: the same among the labels known when each task was learnt; None: it was not asked.

    Returns:
        final, learned (E, T); interference, where `known_ETT` is given, and forgetting (E, T - 1), where there are two tasks.
    """
    found = {"final": scores_ETT[:, -1], "learned": scores_ETT.diagonal(dim1=1, dim2=2)}
    if scores_ETT.shape[1] > 1:
        sign = 1 if higher_is_better else -1
        if known_ETT is not None:
            found["interference"] = sign * _lost(known_ETT)
        found["forgetting"] = sign * _lost(scores_ETT)
    return found


def summary(
    scores_ETT: Tensor, higher_is_better: bool, known_ETT: Tensor | None = None, class_ET: Tensor | None = None
) -> dict[str, Estimate]:
    """The mean of each of the measures over tasks and episodes, by name.

    Arguments:
        scores_ETT, higher_is_better, known_ETT: as of `measured`.
        class_ET: the class of each task, over which the intervals are; None: they are over episodes.
    """
    found = measured(scores_ETT, higher_is_better, known_ETT)
    classes = None if class_ET is None else [class_ET[:, : values_Et.shape[1]] for values_Et in found.values()]
    return dict(zip(found, estimates(list(found.values()), classes), strict=True))


def matrix_json(scores_ETT: Tensor) -> list[list[Any]]:
    """The mean matrix over episodes, null where a task is not learnt yet, or was not asked about."""
    return [[None if math.isnan(value) else value for value in row] for row in scores_ETT.mean(0).tolist()]


def _lost(scores_ETT: Tensor) -> Tensor:
    """(E, T - 1) the score just after each task but the last - the one at the end."""
    return (scores_ETT.diagonal(dim1=1, dim2=2) - scores_ETT[:, -1])[:, :-1]
