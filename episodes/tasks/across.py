"""Another data set as another domain: the classes stay, and their images are of another data set."""

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from episodes.errors import UserError
from episodes.tasks.classification import Classification
from episodes.tasks.drawing import check_counts, distinct, images_of
from episodes.tasks.family import Draw, TaskFamily
from episodes.types import EpisodeShape


class Across:
    """The classes whose labels several data sets have; each example is drawn once from each of these, and one is shown.

    D is the number of data sets. Which of the D images is shown is not this family's: see `of_one_set`.

    Arguments:
        family: its pool has the classes of all, each called "data set/label".

    Raises:
        UserError: they are not of several data sets, or there is no label that all of them have.
    """

    def __init__(self, family: TaskFamily):
        if not isinstance(family, Classification) or len(family.sets) < 2:
            raise UserError(
                "schedule.domains data-set shows the same classes in several data sets: name the others, which need classes of "
                "the same labels, with --data.also."
            )
        self.family, self.spec, self.pool = family, family.spec, family.pool
        self.classes_CD = _same_labels(family.pool.names, family.sets)
        if not len(self.classes_CD):
            own = next(name for name in family.pool.names if name.startswith(f"{family.sets[0]}/"))
            raise UserError(
                f"schedule.domains data-set needs labels that all data sets have, and {self.pool.source} has none: a class of "
                f"{family.sets[0]} is called {own.removeprefix(f'{family.sets[0]}/')!r}. Name the classes alike in all of them."
            )
        self.most_tasks = family.rotations * len(self.classes_CD)

    def check(self, shape: EpisodeShape) -> None:
        check_counts(self.pool.select(np.unique(self.classes_CD), self.pool.source), shape)
        self.family.check_symbols(shape)

    def draw(self, rng: np.random.Generator, shape: EpisodeShape) -> Draw:
        """x is (T, K, D): the place of an image of the class in each data set."""
        turns, rows = np.divmod(distinct(rng, self.most_tasks, shape.tasks), len(self.classes_CD))
        symbols, K = distinct(rng, self.spec.symbols, shape.tasks), shape.shots
        images = [images_of(rng, self.pool, own, K + shape.queries) for own in self.classes_CD[rows].T]
        chosen = np.stack(images, axis=-1) + turns[:, None, None] * len(self.pool.x)
        labels = np.broadcast_to(symbols[:, None], chosen.shape[:2])
        return Draw(chosen[:, :K], labels[:, :K], chosen[:, K:], labels[:, K:])

    def fetch(self, x: np.ndarray) -> Tensor:
        """The images (B, N, *x_shape) at x (B, N), as of `Classification`."""
        return self.family.fetch(x)


def of_one_set(x_BND: np.ndarray, domain_BN: np.ndarray, numbers: Sequence[np.random.Generator]) -> np.ndarray:
    """(B, N): of each example the image in the data set of its domain.

    An episode has the data sets in a random order, the first after the last again. Between two domains (2.3) an example is of
    the next with the chance of the part (0.3).

    Arguments:
        numbers: of each episode, the random numbers that its domains are drawn with.
    """
    places = []
    for x_ND, domain_N, rng in zip(x_BND, domain_BN, numbers, strict=True):
        D = x_ND.shape[1]
        order_D, late_N = rng.permutation(D), rng.random(len(domain_N))
        own_N = np.floor(domain_N).astype(np.int64) + (late_N < domain_N % 1)
        places.append(np.take_along_axis(x_ND, order_D[own_N % D][:, None], axis=1)[:, 0])
    return np.stack(places)


def _same_labels(names: Sequence[str], sets: Sequence[str]) -> np.ndarray:
    """(C, D) int64: for each label that all data sets have, the place of its class in each."""
    return same_labels(
        [{name.removeprefix(f"{own}/"): i for i, name in enumerate(names) if name.startswith(f"{own}/")} for own in sets]
    )


def same_labels(places: Sequence[dict[str, int]]) -> np.ndarray:
    """(C, D) int64: for each label that all D data sets have, its place in each, in the order of the first.

    Arguments:
        places: of each data set its labels and their places.
    """
    shared = [label for label in places[0] if all(label in other for other in places[1:])]
    return np.array([[own[label] for own in places] for label in shared], dtype=np.int64).reshape(-1, len(places))
