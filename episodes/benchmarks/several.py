"""Several data sets as one benchmark: each meta-split has the classes of all of them."""

from collections.abc import Callable, Sequence
from dataclasses import replace

from episodes.benchmarks.benchmark import SPLITS, Benchmark, Split, classification
from episodes.data.config import DataConfig
from episodes.data.joining import joined
from episodes.data.places import user_path
from episodes.data.pool import ClassPool
from episodes.errors import UserError, note
from episodes.synthetic import SYNTHETIC


def several(config: DataConfig, vocabulary: int, load: Callable[[DataConfig, int], Benchmark]) -> Benchmark:
    """The data set of `config` and those of `config.also`. Images are read at the size and in the channels of the first.

    A class that has the same label in two of them is in the meta-split where the first of the two has it.

    Arguments:
        load: reads one data set.

    Raises:
        UserError: one cannot be read, is there twice, has no classes, or its inputs are of another kind.
    """
    first = load(replace(config, also=()), vocabulary)
    _must_have_classes(first)
    benchmarks = [first, *(_other(word, config, first, vocabulary, load) for word in config.also)]
    names = [own.name for own in benchmarks]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise UserError(f"Two of the data sets are called {twice}, so that their classes have the same names. Rename a folder.")
    for own in benchmarks:
        _must_have_classes(own)
    pools = [joined(parts, f"{' + '.join(names)}, meta-{split}") for split, parts in _dealt_alike(benchmarks).items()]
    return classification("+".join(names), vocabulary, pools, names)


def named_place(word: str) -> tuple[str, str | None]:
    """What a word of `--data.also` names: a data set, and where a copy of it lies (NAME=FOLDER)."""
    name, separator, path = word.partition("=")
    return (name, path) if separator and not user_path(word).exists() else (word, None)


def _other(
    word: str, config: DataConfig, first: Benchmark, vocabulary: int, load: Callable[[DataConfig, int], Benchmark]
) -> Benchmark:
    """Another data set. What is wrong with it is said with its name: its size and channels are not what the user asked."""
    try:
        return load(_asked(word, config, first), vocabulary)
    except UserError as error:
        raise UserError(f"--data.also {word}, which is read as {first.name} is: {error}") from error


def _asked(word: str, config: DataConfig, first: Benchmark) -> DataConfig:
    """How another data set is read: as the first, with what is meant for all of them."""
    name, path = named_place(word)
    if name in SYNTHETIC:
        raise _without_classes(name)
    shape = next((pool.x_shape for pool in first.pools("train")), ())
    size, channels = (shape[2], shape[0]) if len(shape) == 3 else (config.size, config.channels)
    if size is not None:
        colour = "in grey" if channels == 1 else "in colour"
        note(f"{name} joins {first.name}: its images are read at {size} x {size}{f', {colour}' * bool(channels)}, as there.")
    return DataConfig(
        name,
        path=path,
        size=size,
        channels=None if name == "glyphs" else channels,
        fewest=config.fewest,
        skip_damaged=config.skip_damaged and name not in ("glyphs", "casia", "celeb"),
        features=config.features,
        features_size=config.features_size,
        features_weights=config.features_weights,
    )


def _must_have_classes(benchmark: Benchmark) -> None:
    if not benchmark.pools("train") or benchmark.train.spec.loss != "cross_entropy":
        raise _without_classes(benchmark.name)


def _without_classes(name: str) -> UserError:
    return UserError(f"{name} has no classes that can join others in an episode. Leave it, or --data.also, out.")


def _dealt_alike(benchmarks: Sequence[Benchmark]) -> dict[Split, list[ClassPool]]:
    """For each meta-split the pools of its classes. A label is in one of them only, in whatever data sets it is."""
    given: dict[str, Split] = {}
    parts: dict[Split, list[ClassPool]] = {split: [] for split in SPLITS}
    for own in benchmarks:
        moved = 0
        for split in SPLITS:
            for pool in own.pools(split):
                now = [given.setdefault(name.removeprefix(f"{own.name}/"), split) for name in pool.names]
                moved += sum(part != split for part in now)
                for part in SPLITS:
                    if places := [i for i, other in enumerate(now) if other == part]:
                        parts[part].append(pool.select(places))
        if moved:
            note(f"{moved} classes of {own.name} are dealt as those of the same labels in the data sets before it.")
    return parts
