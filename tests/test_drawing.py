"""What is drawn of a pool: distinct, every choice as likely as any other, and the episodes that have always been drawn."""

import time

import numpy as np
import pytest
from making import small_pool
from scipy import stats

from episodes import EpisodeShape
from episodes.data.pool import ClassPool
from episodes.tasks.classification import Classification
from episodes.tasks.drawing import FEW, distinct, images_of


def pool_of(counts: np.ndarray) -> ClassPool:
    """Classes of so many images, which are not there."""
    names, total = tuple(map(str, range(len(counts)))), int(counts.sum())
    x = np.broadcast_to(np.zeros(1, np.uint8), (total, 1, 2, 2))
    return ClassPool(x, np.cumsum(counts) - counts, counts, names, "many", "print", np.zeros(total, np.uint64))


@pytest.mark.parametrize(("choices", "size"), [(5, 5), (64, 20), (1000, 3), (FEW, 20)])
def test_few_choices_are_drawn_as_they_always_were(choices, size):
    """The start of a full `argsort`: published episodes stay as they are."""
    for seed in range(5):
        drawn = distinct(np.random.default_rng(seed), choices, size)
        assert np.array_equal(drawn, np.argsort(np.random.default_rng(seed).random(choices))[:size])


def test_images_are_drawn_as_they_always_were():
    pool = small_pool((9, 5, 40, 7))
    classes = np.array([2, 0, 3])
    lots = np.random.default_rng(1).random((3, 40))
    for row, count in zip(lots, pool.counts[classes], strict=True):
        row[count:] = 2.0
    expected = np.argsort(lots, axis=1)[:, :6] + pool.starts[classes][:, None]
    assert np.array_equal(images_of(np.random.default_rng(1), pool, classes, 6), expected)


@pytest.mark.parametrize(("choices", "size"), [(FEW + 1, 20), (100_000, 50), (FEW + 10, FEW)])
def test_of_many_choices_each_is_distinct(choices, size):
    for seed in range(5):
        drawn = distinct(np.random.default_rng(seed), choices, size)
        assert len(set(drawn.tolist())) == size and drawn.min() >= 0 and drawn.max() < choices


@pytest.mark.parametrize("place", [0, 2])
def test_of_many_choices_each_is_as_likely_at_each_place(place):
    """Chi-square over ten parts of the range, and over pairs of neighbours in the order drawn."""
    rng = np.random.default_rng(0)
    drawn = np.stack([distinct(rng, 5000, 3) for _ in range(4000)])
    assert stats.chisquare(np.bincount(drawn[:, place] // 500, minlength=10)).pvalue > 1e-3
    assert stats.chisquare(np.bincount(np.argsort(drawn, axis=1) @ [9, 3, 1])[[5, 7, 11, 15, 19, 21]]).pvalue > 1e-3


def test_of_many_images_each_is_of_its_class_and_distinct():
    pool = pool_of(np.array([FEW + 5, 30, 10_000]))
    drawn = images_of(np.random.default_rng(0), pool, np.array([2, 1, 0]), 25)
    for row, own in zip(drawn, [2, 1, 0], strict=True):
        assert len(set(row.tolist())) == 25
        assert row.min() >= pool.starts[own] and row.max() < pool.starts[own] + pool.counts[own]


def test_many_classes_cost_no_more_than_few():
    shape = EpisodeShape(tasks=20, shots=10, queries=5)

    def seconds(classes: int) -> float:
        family, rng = Classification(pool_of(np.full(classes, 40)), 64), np.random.default_rng(0)
        tries = []
        for _ in range(30):
            start = time.perf_counter()
            family.draw(rng, shape)
            tries.append(time.perf_counter() - start)
        return min(tries)

    assert seconds(100_000) < 2 * seconds(100)
