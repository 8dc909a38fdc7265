"""Which classes of a data set are for which meta-split."""

import hashlib
import os
from collections.abc import Sequence

import numpy as np

from episodes.data.pool import ClassPool
from episodes.errors import UserError
from episodes.rng import random_numbers


def shuffled_by_name(pool: ClassPool, name: str) -> np.ndarray:
    """(classes,) the places of a named benchmark's classes, in an order that its name says: the same on every machine."""
    return random_numbers(f"classes of {name}").random(len(pool.names)).argsort()


def dealt_by_label(pool: ClassPool, name: str) -> np.ndarray:
    """(classes,) the places of the classes, in the order of digests of their labels, whatever the data set is called."""
    labels = [os.fsencode(own.removeprefix(f"{name}/")) for own in pool.names]  # names of folders may be no text
    digests = [hashlib.blake2b(label, digest_size=8, person=b"classes").digest() for label in labels]
    return np.array(sorted(range(len(labels)), key=lambda i: (digests[i], labels[i])), dtype=np.int64)


def cut(pool: ClassPool, name: str, order: np.ndarray, shares: Sequence[int], splits: Sequence[str]) -> list[ClassPool]:
    """Deals the classes in this order, in proportion to `shares`, at least one to each split."""
    classes = len(pool.names)
    if classes < len(splits):
        raise UserError(
            f"{pool.source} has too few classes ({classes}: {', '.join(pool.names)}; {len(splits)} are the least) "
            f"to cut meta-{' and meta-'.join(splits)} from it. Is the label column the right one, or are too many left out?"
        )
    ends: list[int] = []
    for i in range(1, len(splits)):  # at least one class for each split before this end, and for each after it
        least, most = (ends[-1] if ends else 0) + 1, classes - len(splits) + i
        ends.append(min(max(round(classes * sum(shares[:i]) / sum(shares)), least), most))
    parts = np.split(order, ends)
    return [pool.select(np.sort(part), f"{name}, meta-{split}") for part, split in zip(parts, splits, strict=True)]
