"""Measures of continual learning from the score matrix: how well each task is known after each task; and spreads."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Estimate:
    """A mean over episodes and half the width of its 95 % confidence interval (normal approximation)."""

    mean: float
    half_width: float
    std: float
    """Standard deviation between episodes."""

    def to_json(self) -> dict[str, float | None]:
        return {name: None if math.isnan(value) else value for name, value in vars(self).items()}

    def __str__(self) -> str:
        return f"{self.mean:.4f} ± {self.half_width:.4f}"


def deviation(values: Any, axis: int = 0) -> Any:
    """The standard deviation between rows, of a sample (n - 1): everything that is called a spread. NaN for one row."""
    values = np.asarray(values, dtype=np.float64)
    return values.std(axis, ddof=1) if values.shape[axis] > 1 else np.full_like(values.mean(axis), np.nan)


def estimate(values_E: Tensor) -> Estimate:
    """The mean over independent episodes."""
    values_E = values_E.double()
    std = float(values_E.std()) if len(values_E) > 1 else math.nan
    return Estimate(float(values_E.mean()), 1.96 * std / len(values_E) ** 0.5, std)


def summary(scores_ETT: Tensor, higher_is_better: bool) -> dict[str, Estimate]:
    """The measures of Chaudhry et al. (2018) and Lopez-Paz & Ranzato (2017), each over episodes.

    Arguments:
        scores_ETT: score on task i (last axis) after learning task t, for i <= t; the rest is not looked at.
        higher_is_better: True for accuracy, False for an error.

    Returns:
        final: mean over tasks after the last one.
        learned: mean over tasks, each just after it was learnt.
        forgetting: mean over all tasks but the last of (best score after any earlier task - final score). Where the best one
            lies is read off the mean over episodes: the best of every single episode would mistake noise for forgetting.
        backward_transfer: mean over all tasks but the last of (final score - score just after learning the task).
        Forgetting is positive, and backward transfer negative, where a task got worse, for errors too.
    """
    T = scores_ETT.shape[1]
    just_after_ET = scores_ETT.diagonal(dim1=1, dim2=2)
    final_ET = scores_ETT[:, -1]
    result = {"final": estimate(final_ET.mean(1)), "learned": estimate(just_after_ET.mean(1))}
    if T == 1:
        return result
    sign = 1 if higher_is_better else -1
    best_ET = torch.stack([_best(sign * scores_ETT[:, i : T - 1, i]) for i in range(T - 1)], dim=1)
    result["forgetting"] = estimate((best_ET - sign * final_ET[:, :-1]).mean(1))
    result["backward_transfer"] = estimate(sign * (final_ET - just_after_ET)[:, :-1].mean(1))
    return result


def matrix_json(scores_ETT: Tensor) -> list[list[Any]]:
    """The mean matrix over episodes, null where a task is not learnt yet, or was not asked about."""
    return [[None if math.isnan(value) else value for value in row] for row in scores_ETT.mean(0).tolist()]


def _best(scores_Et: Tensor) -> Tensor:
    """(E,) the scores at the time when their mean is highest."""
    return scores_Et[:, scores_Et.mean(0).argmax()]
