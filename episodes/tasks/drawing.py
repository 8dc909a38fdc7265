"""What families over a pool have in common: tasks that are classes, and examples that are images of them."""

import numpy as np

from episodes.data.pool import ClassPool
from episodes.errors import UserError, listed
from episodes.types import EpisodeShape

FEW = 4096
"""Up to so many choices a random number is drawn for each of them, and the lowest win. Of more that would take its time, and
numbers are drawn until enough are distinct. (One way for all would give other episodes than those of published results.)"""


def check_pool(pool: ClassPool, shape: EpisodeShape, turns: int = 1) -> None:
    """Raises `UserError` where a pool has too few classes, or a class too few images.

    Arguments:
        turns: ways in which each class stands there, each a class of its own.
    """
    classes, most = len(pool.names), turns * len(pool.names)
    if shape.tasks > most:
        turned = f", turned {turns} ways" if turns > 1 else ""
        raise UserError(
            f"{shape.tasks} tasks are asked, but {pool.source} has {classes} classes{turned}. Ask for {most} or "
            f"fewer: --tasks {most} of evaluate.py, --episodes.tasks {most} of train.py."
        )
    check_counts(pool, shape)


def check_counts(pool: ClassPool, shape: EpisodeShape) -> None:
    """Raises `UserError` where a class has too few images."""
    classes, needed = len(pool.names), shape.shots + shape.queries
    small = np.flatnonzero(pool.counts < needed)
    if len(small):
        named = listed([f"{pool.names[i]} ({pool.counts[i]})" for i in small])
        raise UserError(
            f"{len(small)} of the {classes} classes of {pool.source} have fewer than the {shape.shots} shots + "
            f"{shape.queries} queries = {needed} images that are asked: {named}. {_fewer(pool.counts, shape)}"
        )


def _fewer(counts: np.ndarray, shape: EpisodeShape) -> str:
    """What to ask in place of a shape for which some classes are too small."""
    needed, least = shape.shots + shape.queries, int(counts.min())
    left_out = f"leave out such classes: --data.fewest {needed}" if (counts >= needed).any() else ""
    if least < 2:
        return (
            f"One image is not enough to learn from and to ask about: {left_out or 'leave out such classes: --data.fewest 2'}."
        )
    queries = min(shape.queries, least // 2)
    shots = min(shape.shots, least - queries)
    fewer = (
        f"--shots {shots} --queries {queries} of evaluate.py, --episodes.shots {shots} --episodes.queries {queries} of train.py"
    )
    return f"Ask for fewer: {fewer}{', or ' * bool(left_out)}{left_out}."


def distinct(rng: np.random.Generator, choices: int, size: int) -> np.ndarray:
    """(size,) distinct integers below `choices`, in random order."""
    if choices <= FEW or 2 * size > choices:
        return _lowest(rng.random(choices), size)
    drawn = np.empty(0, dtype=np.int64)
    while len(drawn) < size:
        drawn = np.concatenate([drawn, rng.integers(choices, size=size)])
        drawn = drawn[np.sort(np.unique(drawn, return_index=True)[1])]
    return drawn[:size]


def images_of(rng: np.random.Generator, pool: ClassPool, classes: np.ndarray, size: int) -> np.ndarray:
    """(T, size) the places in the pool of distinct images of some classes (T,), in random order."""
    counts = pool.counts[classes]
    if counts.max() > FEW:
        chosen = np.stack([distinct(rng, count, size) for count in counts])
    else:
        lots = rng.random((len(classes), counts.max()))
        lots[np.arange(counts.max()) >= counts[:, None]] = 2.0  # places past a class's last image lose every draw
        chosen = _lowest(lots, size)
    return chosen + pool.starts[classes][:, None]


def _lowest(lots: np.ndarray, size: int) -> np.ndarray:
    """(..., size) the places of the lowest of some numbers (..., choices), the lowest first: the start of `argsort`, sooner."""
    if size >= lots.shape[-1]:
        return np.argsort(lots, axis=-1)
    chosen = np.argpartition(lots, size - 1, axis=-1)[..., :size]
    order = np.argsort(np.take_along_axis(lots, chosen, axis=-1), axis=-1)
    return np.take_along_axis(chosen, order, axis=-1)
