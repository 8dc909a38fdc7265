"""Named benchmarks: from a name to the task families of meta-train, meta-validation and meta-test."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Literal

import numpy as np

from episodes.data.archives import OMNIGLOT_ARCHIVES, missing_archive, omniglot_download, read_omniglot_archive
from episodes.data.cache import cached
from episodes.data.config import DataConfig, local_copy, read_cached, reading_of
from episodes.data.dealing import cut, dealt
from episodes.data.glyphs import glyph_pools
from episodes.data.hf import is_hub_name
from episodes.data.identity import classes_among, ids_of, images_in_both
from episodes.data.leaving_out import left_in
from episodes.data.places import name_of, readable, user_path
from episodes.data.pool import ClassPool
from episodes.data.reading import Reading
from episodes.data.sources import with_columns
from episodes.errors import UserError, unknown
from episodes.generator import EpisodeGenerator
from episodes.rng import random_numbers
from episodes.synthetic import SYNTHETIC
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
            if not isinstance(getattr(self, split), Classification):
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
        """The names of a meta-split's classes; none in regression."""
        return [name for pool in self._pools(split) for name in pool.names]

    def ids(self, split: Split) -> np.ndarray:
        """(I,) uint64: what the images of a meta-split are (`episodes.data.identity`), sorted; none in regression."""
        return ids_of(self._pools(split))

    def classes_among(self, split: Split, ids: np.ndarray) -> list[str]:
        """The classes of a meta-split of whose images more than half are among `ids`."""
        return [name for pool in self._pools(split) for name in classes_among(pool, ids)]

    def shared_images(self) -> list[str]:
        """Sentences on identical images in two meta-splits: how many, and an example. They are no fault of the split."""
        pairs = ((own, other) for own, other in combinations(SPLITS, 2))
        found = (images_in_both(a, b) for own, other in pairs for a in self._pools(own) for b in self._pools(other))
        return [words for words in found if words]

    def _pools(self, split: Split) -> list[ClassPool]:
        family = getattr(self, split)
        return [family.pool] if isinstance(family, Classification) else []

    def generator(self, split: Split, shape: EpisodeShape, seed: int) -> EpisodeGenerator:
        """The episodes of one meta-split ("train", "validation" or "test")."""
        if split not in SPLITS:
            raise unknown("meta-split", split, SPLITS)
        return EpisodeGenerator(getattr(self, split), shape, self.name, split, seed)


def load_benchmark(config: DataConfig, vocabulary: int) -> Benchmark:
    """The benchmark that `config` describes, its pools built now or found in the cache.

    Arguments:
        vocabulary: label symbols (V) of classification episodes.

    Raises:
        UserError: no such benchmark, folder or hub data set, an option that it does not have, or data that cannot be read.
    """
    with readable(config.path or config.name):
        if config.name in BENCHMARKS:
            _refuse(config, "split", "configuration")
        else:
            _check_place(config)
        return BENCHMARKS.get(config.name, _any_data_set)(config, vocabulary)


def _check_place(config: DataConfig) -> None:
    """Raises `UserError` where the name of a data set of one's own is no folder, no file and no name of the hub."""
    if config.name and (config.path is not None or user_path(config.name).exists()):
        return
    if config.name.startswith((".", "/", "~")):
        raise UserError(
            f"The folder {config.name} does not exist. Check the path, or say where the data are now: --data.path FOLDER."
        )
    if not is_hub_name(config.name):
        wrong = unknown("data set", config.name, BENCHMARKS)
        raise UserError(f"{wrong} Or give the path of a folder or file, or a hub name like owner/data-set.")


def _glyphs(config: DataConfig, vocabulary: int) -> Benchmark:
    _refuse(config, "path", "image", "label", "channels", "skip_damaged")
    pools = glyph_pools(reading_of(config, 28, None).size or 28)
    return _classification(config, "glyphs", vocabulary, [pools[split] for split in SPLITS])


def _synthetic(config: DataConfig, vocabulary: int) -> Benchmark:
    """Its tasks are drawn anew in each episode, so no meta-split has anything of another's."""
    _refuse(config, "path", "size", "image", "label", "channels", "without", "fewest", "skip_damaged")
    named = SYNTHETIC[config.name]
    train, held_out = named.families(vocabulary)
    return Benchmark(config.name, train, held_out, held_out, fingerprint=named.fingerprint)


def _omniglot(config: DataConfig, vocabulary: int) -> Benchmark:
    """Background (964 classes: 864 to meta-train, 100 to validate) and evaluation (659 to test); 28 x 28 grey.

    The two have other alphabets. But the 100 classes that validate are drawn from the background at random: they are
    characters of 25 of its 30 alphabets, and each of the 25 has other characters in meta-train.
    """
    folder = local_copy(config) or omniglot_download()
    reading = reading_of(config, 28, 1)
    if any((folder / archive).exists() for archive in OMNIGLOT_ARCHIVES.values()):
        _refuse(config, "image", "label", "skip_damaged")
        background, test = (_archive(folder / name, split, reading) for split, name in OMNIGLOT_ARCHIVES.items())
    else:
        background, test = (
            read_cached(folder, "omniglot", [split], reading, f"omniglot, {split}") for split in OMNIGLOT_ARCHIVES
        )
    order = shuffled_by_name(background, "omniglot")
    train, validation = cut(background, "omniglot", order, (864, 100), ("train", "validation"))
    return _classification(config, "omniglot", vocabulary, [train, validation, test])


def _cifar100(config: DataConfig, vocabulary: int) -> Benchmark:
    """Train and test images pooled; 60 classes (50 to meta-train, 10 to validate) and 40 (to test); 32 x 32 RGB.

    Classes are dealt at random, not by superclass: 35 of the 40 that test have another class of their superclass in meta-train.
    The others are the five fish. Nine images of meta-test are in meta-train too, byte for byte, with another label.
    """
    where = local_copy(config) or "uoft-cs/cifar100"
    reading = with_columns(reading_of(config, 32, 3), str(where), "img", "fine_label")
    pool = read_cached(where, "cifar100", None, reading)
    parts = cut(pool, "cifar100", shuffled_by_name(pool, "cifar100"), (50, 10, 40), SPLITS)
    return _classification(config, "cifar100", vocabulary, parts)


def _any_data_set(config: DataConfig, vocabulary: int) -> Benchmark:
    """All splits pooled, the classes dealt as `--data.split` says: else 60 % to meta-train, 20 % to validate, 20 % to test.

    Which classes these are depends on their labels alone: not on the path or name of the data set, nor on the images' size.
    """
    place = local_copy(config) or user_path(config.name)
    name = name_of(config.name)
    pool = read_cached(place if place.exists() else config.name, name, None, reading_of(config, None, None))
    return _classification(config, name, vocabulary, dealt(pool, config, name))


def benchmark_of(pool: ClassPool, vocabulary: int, split: str | None = None) -> Benchmark:
    """The benchmark of a pool that a program has at hand, whose classes are dealt by their names.

    Arguments:
        vocabulary: label symbols (V) of its episodes.
        split: as `DataConfig.split`.

    Raises:
        UserError: there are too few classes, or `split` is none.
    """
    config = DataConfig(pool.source, split=split)
    return _classification(config, pool.source, vocabulary, dealt(pool, config, pool.source))


BENCHMARKS: dict[str, Callable[[DataConfig, int], Benchmark]] = {
    "glyphs": _glyphs,
    **dict.fromkeys(SYNTHETIC, _synthetic),
    "omniglot": _omniglot,
    "cifar100": _cifar100,
}


def _classification(config: DataConfig, name: str, vocabulary: int, pools: Sequence[ClassPool]) -> Benchmark:
    """Of the pools of the three meta-splits. Of a named benchmark classes are left out after the cut, which stays as it is."""
    if config.name in BENCHMARKS:
        pools = left_in(pools, config, name)
    digest = hashlib.blake2b("/".join(pool.fingerprint for pool in pools).encode(), digest_size=16)
    families = [Classification(pool, vocabulary) for pool in pools]
    return Benchmark(name, families[0], families[1], families[2], digest.hexdigest())


def shuffled_by_name(pool: ClassPool, name: str) -> np.ndarray:
    """(classes,) the places of a named benchmark's classes, in an order that its name says: the same on every machine."""
    return random_numbers(f"classes of {name}").random(len(pool.names)).argsort()


def _archive(archive: Path, split: str, reading: Reading) -> ClassPool:
    if not archive.is_file():
        raise missing_archive(archive)
    about = archive.stat()
    size, channels = reading.size or 28, reading.channels or 1
    key = {"source": [str(archive.resolve()), about.st_size, about.st_mtime_ns], "size": size, "channels": channels}
    return cached(key, partial(read_omniglot_archive, archive, f"omniglot, {split}", size, channels))


def _refuse(config: DataConfig, *options: str) -> None:
    """Options that this data set does not have are an error, not ignored."""
    for option in options:
        if getattr(config, option) not in (None, (), False):
            raise UserError(f"--data.{option.replace('_', '-')} means nothing for {config.name}; leave it out.")
