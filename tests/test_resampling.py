"""Intervals over classes and seeds: how often they hold a truth that is known."""

import math

import numpy as np
import pytest
import torch

from metacl.evaluation.metrics import estimate, estimates
from metacl.evaluation.resampling import RESAMPLES, ClassSums, by_class, half_width_over_seeds, half_widths

TRIALS = 100


def drawn(classes: int, rng: torch.Generator, seeds: int = 1) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Of each seed the scores of 100 episodes of 4 tasks, and their classes. The mean of all classes and seeds that there might
    be is 0; classes differ by 0.2, seeds by 0.1, episodes by 0.1."""
    class_C, seed_G = 0.2 * torch.randn(classes, generator=rng), 0.1 * (seeds > 1) * torch.randn(seeds, generator=rng)
    chosen = [torch.rand(100, classes, generator=rng).argsort(1)[:, :4] for _ in range(seeds)]
    values = [class_C[own] + seed + 0.1 * torch.randn(100, 4, generator=rng) for own, seed in zip(chosen, seed_G, strict=True)]
    return values, chosen


def test_an_interval_over_classes_holds_the_truth_of_other_classes():
    """The interval over episodes, which are of the same 40 classes again and again, does not."""
    rng, held = torch.Generator().manual_seed(0), np.zeros((TRIALS, 2))
    for trial in range(TRIALS):
        (values_ET,), (class_ET,) = drawn(40, rng)
        (over_classes,), over_episodes = estimates([values_ET], [class_ET]), estimate(values_ET.mean(1))
        assert over_classes.mean == pytest.approx(over_episodes.mean) and over_classes.std == over_episodes.std
        held[trial] = [abs(own.mean) < own.half_width for own in (over_classes, over_episodes)]
    assert 0.9 < held[:, 0].mean() < 0.98 and held[:, 1].mean() < 0.6


def test_an_interval_over_seeds_and_classes_holds_the_truth_of_others():
    """That of classes alone does not: seeds differ too."""
    rng, held, seeds = torch.Generator().manual_seed(0), np.zeros((TRIALS, 2)), 8
    for trial in range(TRIALS):
        found = [by_class(*pair) for pair in zip(*drawn(40, rng, seeds), strict=True)]
        mean = np.mean([own.sums_C.sum() / own.tasks_C.sum() for own in found])
        both, alone = half_width_over_seeds(found, [(seed, 0) for seed in range(seeds)]), half_widths(found[:1])[0]
        held[trial] = abs(mean) < both, abs(mean) < alone
    assert 0.89 < held[:, 0].mean() < 0.98 and held[:, 1].mean() < held[:, 0].mean() - 0.05


def test_the_width_by_hand():
    """As many tasks of each of n classes: the mean has the standard error s / sqrt(n) of the classes' means."""
    means = np.array([0.1, 0.4, 0.5, 0.8])
    (width,) = half_widths([ClassSums(3 * means, np.full(4, 3))])
    assert width == pytest.approx(1.96 * means.std(ddof=1) / 2, rel=3 / math.sqrt(RESAMPLES))
    assert half_widths([ClassSums(3 * means, np.full(4, 3))]) == [width], "the same whenever it is asked for"


def test_classes_that_did_not_occur_change_nothing():
    sums, tasks = np.array([1.0, 0.0, 2.0]), np.array([2, 1, 3])
    padded = ClassSums(np.array([0.0, *sums[:1], 0.0, *sums[1:]]), np.array([0, *tasks[:1], 0, *tasks[1:]]))
    assert half_widths([padded]) == half_widths([ClassSums(sums, tasks)])


def test_one_class_has_no_interval():
    assert math.isnan(half_widths([ClassSums(np.array([0.0, 2.5]), np.array([0, 3]))])[0])


def test_sums_of_each_class():
    found = by_class(torch.tensor([[0.5, 1.0], [0.25, 0.0]]), torch.tensor([[3, 1], [1, 0]]))
    assert found.sums_C.tolist() == [0.0, 1.25, 0.0, 0.5] and found.tasks_C.tolist() == [1, 2, 0, 1]
    again = ClassSums.read(found.to_json())
    assert all((a == b).all() for a, b in zip(again, found, strict=True))
