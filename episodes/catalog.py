"""Named benchmarks: from a name to the task families of meta-train, meta-validation and meta-test."""

from collections.abc import Callable
from dataclasses import replace

from episodes.benchmarks import images, large
from episodes.benchmarks.benchmark import SPLITS, Benchmark, Split, classification, refuse
from episodes.benchmarks.numbers import regression
from episodes.benchmarks.several import several
from episodes.data.config import DataConfig, local_copy, read_cached, reading_of
from episodes.data.dealing import dealt
from episodes.data.features import with_features
from episodes.data.hf import is_hub_name
from episodes.data.places import name_of, readable, user_path
from episodes.data.pool import ClassPool
from episodes.errors import UserError, unknown
from episodes.synthetic import SYNTHETIC
from episodes.tasks.completion import Completion
from episodes.tasks.family import TaskFamily
from episodes.tasks.rotation import Rotation

__all__ = ["BENCHMARKS", "SPLITS", "Benchmark", "Split", "load_benchmark"]


def load_benchmark(config: DataConfig, vocabulary: int) -> Benchmark:
    """The benchmark that `config` describes, its pools built now or found in the cache.

    Arguments:
        vocabulary: label symbols (V) of classification episodes.

    Raises:
        UserError: no such benchmark, folder or hub data set, an option that it does not have, or data that cannot be read.
    """
    with readable(config.path or config.name):
        if config.name not in OVER_A_POOL:
            refuse(config, "source")
        if config.also and config.name not in OVER_A_POOL:  # these join the images of their source
            return several(config, vocabulary, load_benchmark)
        if config.name in BENCHMARKS:
            page = config.name == "casia" or config.name in OVER_A_POOL  # the source of the latter may be casia
            refuse(config, "split", "target", *([] if page else ["configuration"]))
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


def _any_data_set(config: DataConfig, vocabulary: int) -> Benchmark:
    """All splits pooled, the classes dealt as `--data.split` says: else 60 % to meta-train, 20 % to validate, 20 % to test.

    Which classes these are depends on their labels alone: not on the path or name of the data set, nor on the images' size.
    """
    place = local_copy(config) or user_path(config.name)
    name = name_of(config.name)
    pool = read_cached(place if place.exists() else config.name, name, None, reading_of(config, None, None))
    pools = dealt(with_features(pool, config), config, name)
    return regression(name, pools, config.target) if config.target else classification(name, vocabulary, pools)


def benchmark_of(pool: ClassPool, vocabulary: int, split: str | None = None) -> Benchmark:
    """The benchmark of a pool that a program has at hand, whose classes are dealt by their names: of regression where it has
    targets.

    Arguments:
        vocabulary: label symbols (V) of its episodes.
        split: as `DataConfig.split`.

    Raises:
        UserError: there are too few classes, or `split` is none.
    """
    config = DataConfig(pool.source, split=split)
    pools = dealt(pool, config, pool.source)
    return regression(pool.source, pools) if pool.targets is not None else classification(pool.source, vocabulary, pools)


def _synthetic(config: DataConfig, vocabulary: int) -> Benchmark:
    """Its tasks are drawn anew in each episode, so no meta-split has anything of another's."""
    refuse(config, "path", "size", "image", "label", "channels", "without", "fewest", "skip_damaged", "features")
    named = SYNTHETIC[config.name]
    train, held_out = named.families(vocabulary)
    return Benchmark(config.name, train, held_out, held_out, fingerprint=named.fingerprint)


def _over_a_pool(config: DataConfig, vocabulary: int) -> Benchmark:
    """The images, classes and meta-splits of another data set, `--data.source`. What is asked of them is no class."""
    refuse(config, "features")
    source = config.source or "casia"
    if source in OVER_A_POOL or source in SYNTHETIC:
        raise UserError(f"{config.name} asks about images, and {source} has none. Name a data set: --data.source omniglot.")
    own = load_benchmark(replace(config, name=source, source=None), vocabulary)
    name = config.name if source == "casia" else f"{config.name}-{own.name}"
    families = [OVER_A_POOL[config.name](pool) for split in SPLITS for pool in own.pools(split)]
    return Benchmark(name, families[0], families[1], families[2], f"{config.name}-1/{own.fingerprint}")


OVER_A_POOL: dict[str, Callable[[ClassPool], TaskFamily]] = {"completion": Completion, "rotation": Rotation}
"""Benchmarks over any data set of images: what is asked of them."""

BENCHMARKS: dict[str, Callable[[DataConfig, int], Benchmark]] = {
    "glyphs": images.glyphs,
    **dict.fromkeys(SYNTHETIC, _synthetic),
    "omniglot": images.omniglot,
    "cifar100": images.cifar100,
    "casia": large.casia,
    "celeb": large.celeb,
    **dict.fromkeys(OVER_A_POOL, _over_a_pool),
    "tiny-imagenet": images.tiny_imagenet,
    "casia-hwdb-95": images.casia_hwdb_95,
    "mnist": images.mnist,
}
"""Every benchmark that has a name."""
