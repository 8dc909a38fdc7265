"""A benchmark: the task families of meta-train, meta-validation and meta-test, which share no class."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

import numpy as np

from episodes.data.config import DataConfig
from episodes.data.identity import classes_among, ids_of, images_in_both, images_twice
from episodes.data.pool import ClassPool
from episodes.errors import UserError, unknown
from episodes.generator import EpisodeGenerator
from episodes.tasks.classification import Classification
from episodes.tasks.family import TaskFamily
from episodes.types import EpisodeShape

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test")


@dataclass(frozen=True)
class Benchmark:
    """Three task families that share no class.

    Raises:
        UserError: two of them share a class, or one has none.
    """

    name: str
    train: TaskFamily
    validation: TaskFamily
    test: TaskFamily
    fingerprint: str
    """Digest of all that the episodes are made of: equal fingerprints, equal episodes."""

    def __post_init__(self) -> None:
        seen: dict[str, str] = {}
        for split in SPLITS:
            if not self.pools(split):
                continue
            names = set(self.classes(split))
            if not names:
                raise UserError(f"The meta-{split} part of {self.name} has no classes. Give it some, or use a larger data set.")
            if shared := sorted(names & seen.keys()):
                raise UserError(
                    f"Meta-{seen[shared[0]]} and meta-{split} of {self.name} share {len(shared)} classes, such as "
                    f"{', '.join(shared[:3])}. What is tested must not be trained on: give each class to one part."
                )
            seen |= dict.fromkeys(names, split)

    def classes(self, split: Split) -> list[str]:
        """The names of a meta-split's classes; none where tasks are of no classes."""
        return [name for pool in self.pools(split) for name in pool.names]

    def ids(self, split: Split) -> np.ndarray:
        """(I,) uint64: what the images of a meta-split are (`episodes.data.identity`), sorted; none without a data set."""
        return ids_of(self.pools(split))

    def classes_among(self, split: Split, ids: np.ndarray) -> list[str]:
        """The classes of a meta-split of whose images more than half are among `ids`."""
        return [name for pool in self.pools(split) for name in classes_among(pool, ids)]

    def shared_images(self) -> list[str]:
        """Sentences on identical images in two meta-splits, or twice in one: how many, and an example.

        Those of two meta-splits were trained on; of those that are twice in one an episode may ask what it has shown.
        """
        pairs = ((own, other) for own, other in combinations(SPLITS, 2))
        found = [images_in_both(a, b) for own, other in pairs for a in self.pools(own) for b in self.pools(other)]
        found += [images_twice(pool) for split in SPLITS for pool in self.pools(split)]
        return [words for words in found if words]

    def pools(self, split: Split) -> list[ClassPool]:
        """The images that a meta-split is of; none where its tasks are drawn from nothing."""
        pool = getattr(getattr(self, split), "pool", None)
        return [] if pool is None else [pool]

    def generator(self, split: Split, shape: EpisodeShape, seed: int) -> EpisodeGenerator:
        """The episodes of one meta-split ("train", "validation" or "test")."""
        if split not in SPLITS:
            raise unknown("meta-split", split, SPLITS)
        return EpisodeGenerator(getattr(self, split), shape, self.name, split, seed)


def classification(name: str, vocabulary: int, pools: Sequence[ClassPool], sets: Sequence[str] = ()) -> Benchmark:
    """The benchmark whose tasks are the classes of these pools, of the three meta-splits.

    Arguments:
        vocabulary: label symbols (V).
        sets: the names of the data sets that the classes are of, where these are several.
    """
    digest = hashlib.blake2b("/".join(pool.fingerprint for pool in pools).encode(), digest_size=16)
    families = [Classification(pool, vocabulary, sets=sets) for pool in pools]
    return Benchmark(name, families[0], families[1], families[2], digest.hexdigest())


def refuse(config: DataConfig, *options: str) -> None:
    """Options that this data set does not have are an error, not ignored."""
    for option in options:
        if getattr(config, option) not in (None, (), False):
            raise UserError(f"--data.{option.replace('_', '-')} means nothing for {config.name}; leave it out.")
