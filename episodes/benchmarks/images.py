"""Named benchmarks of images that are read into memory."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from episodes.benchmarks.benchmark import SPLITS, Benchmark, classification, refuse
from episodes.data.archives import OMNIGLOT_ARCHIVES, missing_archive, omniglot_download, read_omniglot_archive
from episodes.data.cache import cached
from episodes.data.config import DataConfig, local_copy, read_cached, reading_of
from episodes.data.dealing import cut, shuffled_by_name
from episodes.data.features import with_features
from episodes.data.glyphs import glyph_pools
from episodes.data.halves import CIFAR100, MNIST, TINY_IMAGENET, HubImages
from episodes.data.leaving_out import left_in
from episodes.data.pool import ClassPool
from episodes.data.reading import Reading
from episodes.data.sources import with_columns
from episodes.errors import UserError, note


def glyphs(config: DataConfig, vocabulary: int) -> Benchmark:
    refuse(config, "path", "image", "label", "channels", "skip_damaged")
    pools = glyph_pools(reading_of(config, 28, None).size or 28)
    return _named(config, vocabulary, [with_features(pools[split], config) for split in SPLITS])


def omniglot(config: DataConfig, vocabulary: int) -> Benchmark:
    """Background (964 classes: 864 to meta-train, 100 to validate) and evaluation (659 to test); 28 x 28 grey.

    The two have other alphabets. But the 100 classes that validate are drawn from the background at random: they are
    characters of 25 of its 30 alphabets, and each of the 25 has other characters in meta-train.
    """
    folder = local_copy(config) or omniglot_download()
    reading = reading_of(config, 28, 1)
    if any((folder / archive).exists() for archive in OMNIGLOT_ARCHIVES.values()):
        refuse(config, "image", "label", "skip_damaged")
        background, test = (_archive(folder / name, split, reading) for split, name in OMNIGLOT_ARCHIVES.items())
    else:
        background, test = (
            read_cached(folder, "omniglot", [split], reading, f"omniglot, {split}") for split in OMNIGLOT_ARCHIVES
        )
    background, test = (with_features(pool, config) for pool in (background, test))
    order = shuffled_by_name(background, "omniglot")
    train, validation = cut(background, "omniglot", order, (864, 100), ("train", "validation"))
    return _named(config, vocabulary, [train, validation, test])


def cifar100(config: DataConfig, vocabulary: int) -> Benchmark:
    """Train and test images pooled; 60 classes (50 to meta-train, 10 to validate) and 40 (to test); 32 x 32 RGB.

    Classes are dealt at random, not by superclass: 35 of the 40 that test have another class of their superclass in meta-train.
    The others are the five fish. Nine images of meta-test are in meta-train too, byte for byte, with another label.
    """
    return _dealt(config, vocabulary, _pooled(config, CIFAR100, 32), (50, 10, 40))


def tiny_imagenet(config: DataConfig, vocabulary: int) -> Benchmark:
    """All splits pooled; 200 classes, 120 to meta-train, 20 to validate and 60 to test; 32 x 32 RGB.

    In the archive of its authors the images to validate and to test lie in folders `images`, without their labels: they are
    left out, and said.
    """
    pool = _pooled(config, TINY_IMAGENET, 32)
    if "tiny-imagenet/images" in pool.names:
        own = pool.names.index("tiny-imagenet/images")
        note(f"tiny-imagenet: {pool.counts[own]} images in folders `images` have no label there and are left out.")
        pool = pool.select([i for i in range(len(pool.names)) if i != own])
        pool = replace(pool, names=tuple(name.removesuffix("/images") for name in pool.names))
    return _dealt(config, vocabulary, pool, (120, 20, 60))


def casia_hwdb_95(config: DataConfig, vocabulary: int) -> Benchmark:
    """95 Chinese characters, white on black: 57 to meta-train, 19 to validate, 19 to test; 32 x 32 grey. No usual place."""
    if config.path is None:
        raise UserError("casia-hwdb-95 has no place to be downloaded from. Give the folder of a copy: --data.path FOLDER.")
    return _dealt(config, vocabulary, _pooled(config, HubImages("", 32, 1), 32), (57, 19, 19))


def mnist(config: DataConfig, vocabulary: int) -> Benchmark:
    """Train and test images pooled; ten digits, 6 to meta-train, 2 to validate and 2 to test; 28 x 28 grey."""
    return _dealt(config, vocabulary, _pooled(config, MNIST, 28), (6, 2, 2))


def _pooled(config: DataConfig, own: HubImages, size: int) -> ClassPool:
    """All splits of a data set."""
    where = local_copy(config) or own.hub
    reading = with_columns(reading_of(config, size, own.channels), str(where), own.image, own.label)
    return read_cached(where, config.name, None, reading)


def _dealt(config: DataConfig, vocabulary: int, pool: ClassPool, shares: tuple[int, int, int]) -> Benchmark:
    """Its classes are dealt by the name of the benchmark."""
    pool = with_features(pool, config)
    return _named(config, vocabulary, cut(pool, config.name, shuffled_by_name(pool, config.name), shares, SPLITS))


def _named(config: DataConfig, vocabulary: int, pools: Sequence[ClassPool]) -> Benchmark:
    """Of a named benchmark classes are left out after the cut, which stays as it is."""
    return classification(config.name, vocabulary, left_in(pools, config, config.name))


def _archive(archive: Path, split: str, reading: Reading) -> ClassPool:
    if not archive.is_file():
        raise missing_archive(archive)
    about = archive.stat()
    size, channels = reading.size or 28, reading.channels or 1
    key = {"source": [str(archive.resolve()), about.st_size, about.st_mtime_ns], "size": size, "channels": channels}
    return cached(key, partial(read_omniglot_archive, archive, f"omniglot, {split}", size, channels))
