"""Named streams: from a name to a stream over its own data set, or over any other."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from episodes.catalog import DataConfig, local_copy, read_cached, reading_of
from episodes.data.glyphs import glyph_pools
from episodes.data.pool import ClassPool
from episodes.data.sources import Reading, is_hub_name, open_splits
from episodes.errors import UserError, at_least, unknown
from episodes.stream import Stream
from episodes.tasks.permuted import Permuted
from episodes.tasks.regression import SlowlyChangingRegression
from episodes.tasks.splits import Incremental, Splits, cut_pool

HELD_OUT_SPLITS = ("validation", "valid", "val", "test")
"""The split of a data set that is held out: the first of these that it has, beside `train`."""


@dataclass(frozen=True)
class StreamConfig:
    """Which stream, and over which images."""

    name: str = "slowly-changing-regression"
    """A name of `STREAMS`."""
    data: DataConfig = field(default_factory=lambda: DataConfig(name=""))
    """The images. Without a name, the data set that the stream is named after."""
    bits: Literal["redraw", "flip-one"] = "redraw"
    """Of slowly-changing-regression, at a new task: draw all 15 constant bits anew, or flip one of them."""
    train: int | None = None
    """Training examples of a task of slowly-changing-regression. Default: 9000."""
    held_out: int | None = None
    """Held-out examples of a task. Default: 1000 of slowly-changing-regression, one image in thirty of the permuted streams;
    the others hold out a split of their data set."""
    classes: int | None = None
    """Classes of a task of the split, online and incremental streams. Default: 2, 5 and 5."""
    cumulative: bool = True
    """Of the incremental stream: a task has the images of all classes so far, as published, not those of the new ones alone."""

    def __post_init__(self) -> None:
        at_least(1, self, "stream.", "train", "held_out", "classes")


@dataclass(frozen=True)
class Source:
    """A data set as a stream reads it unless it is told otherwise."""

    hub: str
    size: int
    channels: int
    image: str = "image"
    label: str = "label"


MNIST = Source("ylecun/mnist", 7, 1)
TINY_IMAGENET = Source("zh-plus/tiny-imagenet", 32, 3)
CIFAR100 = Source("uoft-cs/cifar100", 32, 3, "img", "fine_label")


def load_stream(config: StreamConfig) -> Stream:
    """The stream that `config` describes, its pools built now or found in the cache.

    Raises:
        UserError: no such stream, options that it does not have, or data that cannot be read or do not suffice.
    """
    if config.name not in STREAMS:
        raise unknown("stream", config.name, STREAMS)
    return STREAMS[config.name](config)


def _regression(config: StreamConfig) -> Stream:
    _refuse(config, "classes", "cumulative")
    if config.data != DataConfig(name=""):
        raise UserError(f"{config.name} is computed, not read: leave the options --stream.data out.")
    return SlowlyChangingRegression(config.bits, config.train or 9_000, config.held_out or 1_000)


def _permuted(source: Source, pixels: bool, flat: bool = True) -> Callable[[StreamConfig], Stream]:
    def load(config: StreamConfig) -> Stream:
        _refuse(config, "train", "classes", "bits", "cumulative")
        pool = _pools(config, source)[0]
        return Permuted(config.name, pool, pixels, not pixels, flat, config.held_out)

    return load


def _splits(source: Source, classes: int) -> Callable[[StreamConfig], Stream]:
    def load(config: StreamConfig) -> Stream:
        _refuse(config, "train", "held_out", "bits", "cumulative")
        return Splits(config.name, *_halves(config, source), config.classes or classes)

    return load


def _incremental(config: StreamConfig) -> Stream:
    _refuse(config, "train", "held_out", "bits")
    train, held_out = _halves(config, CIFAR100)
    return Incremental(config.name, train, held_out, config.classes or 5, cumulative=config.cumulative)


STREAMS: dict[str, Callable[[StreamConfig], Stream]] = {
    "slowly-changing-regression": _regression,
    "permuted-mnist": _permuted(MNIST, pixels=True),
    "label-permuted-mnist": _permuted(MNIST, pixels=False),
    "label-permuted-cifar100": _permuted(CIFAR100, pixels=False, flat=False),
    "split-tiny-imagenet": _splits(TINY_IMAGENET, 2),
    "online-cifar100": _splits(CIFAR100, 5),
    "incremental-cifar100": _incremental,
}

BLOCKS = {name: 400 if name.endswith("mnist") else 10 for name in STREAMS} | {"slowly-changing-regression": 1}
"""Examples of each stream that arrive together: one update."""


def _halves(config: StreamConfig, source: Source) -> tuple[ClassPool, ClassPool]:
    train, held_out = _pools(config, source)
    return cut_pool(train) if held_out is None else (train, held_out)


def _pools(config: StreamConfig, source: Source) -> tuple[ClassPool, ClassPool | None]:
    """The images to train on and those held out by the data set itself; None where it has no such split."""
    data = config.data if config.data.name else replace(config.data, name=source.hub)
    own = data.name == source.hub
    size, channels = (source.size, source.channels) if own else (None, None)
    asked = reading_of(data, size, channels)
    if data.name == "glyphs":
        return glyph_pools(asked.size or 28)["train"], None
    if own:
        asked = Reading(asked.image or source.image, asked.label or source.label, asked.size, asked.channels)
    where = _place(data)
    parts = open_splits(str(where))
    name = data.name if is_hub_name(data.name) else Path(data.name).resolve().name
    held_out = next((split for split in HELD_OUT_SPLITS if split in parts), None) if "train" in parts else None
    if held_out is None:
        return read_cached(where, name, None, asked), None
    train = read_cached(where, name, ["train"], asked, f"{name}, train")
    return train, read_cached(where, name, [held_out], asked, f"{name}, {held_out}")


def _place(data: DataConfig) -> Path | str:
    """The folder of the data, or the hub name."""
    folder = local_copy(data) or Path(data.name).expanduser()
    if folder.is_dir():
        return folder
    if not is_hub_name(data.name):
        raise UserError(f"{data.name} is no folder and no hub name like owner/data-set. Give one of them.")
    return data.name


def _refuse(config: StreamConfig, *options: str) -> None:
    """Options that this stream does not have are an error, not ignored."""
    plain = StreamConfig()
    for option in options:
        if getattr(config, option) != getattr(plain, option):
            raise UserError(f"--stream.{option.replace('_', '-')} means nothing for {config.name}; leave it out.")
