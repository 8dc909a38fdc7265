"""Which data set is read, and how: the options of every benchmark and stream that has images."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

from episodes.data.pool import ClassPool, cached
from episodes.data.sources import Reading, folder_identity, read
from episodes.errors import UserError


@dataclass(frozen=True)
class DataConfig:
    """Which data set, and how it is read."""

    name: str = "glyphs"
    """A named benchmark (glyphs, sine, slowly-changing-regression, omniglot, cifar100), a folder (parquet files, or a
    sub-folder of images for each class), or a Hugging Face hub name like owner/data-set."""
    path: str | None = None
    """The folder of a local copy of the named data set. None: it is downloaded once from its usual place."""
    size: int | None = None
    """Side of the images in pixels, to which they are resized. None: the usual one of the benchmark or stream, and for any
    other data set the side of its first image, at most 64."""
    image: str | None = None
    """The column that holds the images. None: the usual one of the benchmark or stream, or the only one that holds images."""
    label: str | None = None
    """The column that holds the labels. None: the usual one of the benchmark or stream, the only class-label column, or
    the only one with a name like label."""
    channels: int | None = None
    """Channels of an image, 1 (grey) or 3 (RGB). None: the usual number of the benchmark or stream, and for any other data
    set what its first images have."""


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
    )


def local_copy(config: DataConfig) -> Path | None:
    """The folder of `--data.path`."""
    if config.path is None:
        return None
    folder = Path(config.path).expanduser()
    if not folder.is_dir():
        raise UserError(f"The data path {config.path} is no folder. Give the folder that holds a copy of {config.name}.")
    return folder


def read_cached(where: Path | str, name: str, splits: list[str] | None, reading: Reading, words: str = "") -> ClassPool:
    """`read`, cached. A hub name's pool stays as it was first read, also without a network."""
    identity = folder_identity(where) if isinstance(where, Path) else where
    key = {"source": identity, "name": name, "splits": splits, **vars(reading)}
    return cached(key, partial(read, str(where), name, splits, reading, words))
