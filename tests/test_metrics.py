"""Measures of continual learning, worked by hand."""

import math

import pytest
import torch

from metacl.evaluation.metrics import Estimate, estimate, matrix_json, summary

NAN = float("nan")
ACCURACY = torch.tensor(
    [
        [[0.8, NAN, NAN], [0.9, 0.6, NAN], [0.5, 0.7, 1.0]],
        [[1.0, NAN, NAN], [0.5, 0.8, NAN], [0.7, 0.5, 0.6]],
    ]
)
"""Two episodes of three tasks. Means: task 0: .9, .7, .6; task 1: .7, .6; task 2: .8."""


def test_an_estimate_by_hand():
    got = estimate(torch.tensor([1.0, 2.0, 3.0, 6.0]))
    assert got.mean == 3.0
    spread = math.sqrt((4 + 1 + 0 + 9) / 3)
    assert got.half_width == pytest.approx(1.96 * spread / 2)
    assert str(Estimate(0.5, 0.25, 0.3)) == "0.5000 ± 0.2500"


def test_the_interval_holds_the_true_mean_19_times_in_20():
    values = torch.randn(4000, 100, generator=torch.Generator().manual_seed(0)).unbind(0)
    inside = sum(abs(e.mean) < e.half_width for e in map(estimate, values)) / 4000
    assert 0.93 < inside < 0.96


def test_one_episode_has_no_interval():
    got = estimate(torch.tensor([2.0]))
    assert got.mean == 2.0 and math.isnan(got.half_width)


def test_measures_of_accuracy_by_hand():
    got = summary(ACCURACY, higher_is_better=True)
    assert got["final"].mean == pytest.approx((0.6 + 0.6 + 0.8) / 3)
    assert got["learned"].mean == pytest.approx((0.9 + 0.7 + 0.8) / 3)
    assert got["forgetting"].mean == pytest.approx(((0.9 - 0.6) + (0.7 - 0.6)) / 2)
    assert "interference" not in got
    finals = torch.tensor([(0.5 + 0.7 + 1.0) / 3, (0.7 + 0.5 + 0.6) / 3])
    assert got["final"].half_width == pytest.approx(1.96 * finals.std().item() / math.sqrt(2), rel=1e-5)
    forgotten = torch.tensor([((0.8 - 0.5) + (0.6 - 0.7)) / 2, ((1.0 - 0.7) + (0.8 - 0.5)) / 2])
    assert got["forgetting"].half_width == pytest.approx(1.96 * forgotten.std().item() / math.sqrt(2), rel=1e-5)


def test_interference_is_forgetting_among_the_labels_known_then():
    """Just after a task both are asked alike; at the end the known score of task 0 has fallen by less."""
    known = ACCURACY.clone()
    known[:, 2, 0] = torch.tensor([0.6, 0.9])
    got = summary(ACCURACY, True, known)
    assert got["interference"].mean == pytest.approx(((0.2 + 0.1) / 2 + (-0.1 + 0.3) / 2) / 2)
    assert got["forgetting"].mean == pytest.approx(0.2) and list(got) == ["final", "learned", "interference", "forgetting"]


def test_a_task_that_gets_better_is_forgotten_negatively():
    scores = torch.tensor([[[0.2, NAN, NAN], [0.6, 0.5, NAN], [0.7, 0.5, 0.5]]])
    assert summary(scores, higher_is_better=True)["forgetting"].mean == pytest.approx(-0.25)


def test_measures_of_an_error_have_the_same_signs():
    """An error that grows is forgetting, too."""
    got = summary(1 - ACCURACY, higher_is_better=False)
    expected = summary(ACCURACY, higher_is_better=True)
    assert got["forgetting"].mean == pytest.approx(expected["forgetting"].mean) and got["forgetting"].mean > 0
    assert got["final"].mean == pytest.approx(1 - expected["final"].mean)


def test_noise_is_not_forgetting():
    """A constant 0.9, asked by 5 queries: from the best of 49 times, found on the same episodes, 2 points would be lost."""
    rng = torch.Generator().manual_seed(0)
    scores = torch.bernoulli(torch.full((128, 50, 50, 5), 0.9), generator=rng).mean(-1)
    got = summary(scores, higher_is_better=True)["forgetting"]
    assert abs(got.mean) < got.half_width < 0.006


def test_one_task_cannot_be_forgotten():
    got = summary(torch.tensor([[[0.5]], [[0.7]]]), higher_is_better=True)
    assert got.keys() == {"final", "learned"} and got["final"].mean == pytest.approx(0.6)


def test_what_lies_above_the_diagonal_is_not_looked_at():
    other = ACCURACY.masked_fill(torch.ones(3, 3).triu(1).bool(), 99.0)
    assert summary(other, True, other) == summary(ACCURACY, True, ACCURACY)


def test_the_matrix_as_json():
    rows = matrix_json(ACCURACY)
    assert [[None if v is None else round(v, 6) for v in row] for row in rows] == [
        [0.9, None, None],
        [0.7, 0.7, None],
        [0.6, 0.6, 0.8],
    ]
