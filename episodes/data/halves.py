"""The images of a stream: those that it is learnt from, and those held out."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from episodes.data.config import DataConfig, local_copy, read_cached, reading_of
from episodes.data.glyphs import glyph_pools
from episodes.data.pool import ClassPool
from episodes.data.sources import Reading, is_hub_name, open_splits
from episodes.errors import UserError

HELD_OUT_SPLITS = ("validation", "valid", "val", "test")
"""The split of a data set that is held out: the first of these that it has, beside `train`."""


@dataclass(frozen=True)
class HubImages:
    """A data set of the Hugging Face hub, as a stream that is named after it reads it unless it is told otherwise."""

    hub: str
    """Name of the data set on the hub."""
    size: int
    """Side of the images in pixels."""
    channels: int
    """Channels of an image, 1 (grey) or 3 (RGB)."""
    image: str = "image"
    """The column that holds the images."""
    label: str = "label"
    """The column that holds the labels."""


MNIST = HubImages("ylecun/mnist", 7, 1)
TINY_IMAGENET = HubImages("zh-plus/tiny-imagenet", 32, 3)
CIFAR100 = HubImages("uoft-cs/cifar100", 32, 3, "img", "fine_label")


def halves(data: DataConfig, own: HubImages) -> tuple[ClassPool, ClassPool]:
    """The images to learn from and those held out, of the same classes; a data set without such a split is cut.

    Arguments:
        data: the data set; the options that it leaves open are `own`'s where it is the same data set.

    Raises:
        UserError: there is no such data set, it cannot be read, or a class has one image only.
    """
    train, held_out = published_halves(data, own)
    return cut_pool(train) if held_out is None else (train, held_out)


def published_halves(data: DataConfig, own: HubImages) -> tuple[ClassPool, ClassPool | None]:
    """As `halves`, with None and all images together where the data set has no split to hold out."""
    is_own = data.name == own.hub
    asked = reading_of(data, own.size, own.channels) if is_own else reading_of(data, None, None)
    if data.name == "glyphs":
        return glyph_pools(asked.size or 28)["train"], None
    if is_own:
        asked = Reading(asked.image or own.image, asked.label or own.label, asked.size, asked.channels)
    where = _place(data)
    parts = open_splits(str(where))
    name = data.name if is_hub_name(data.name) else Path(data.name).resolve().name
    held_out = next((split for split in HELD_OUT_SPLITS if split in parts), None) if "train" in parts else None
    if held_out is None:
        return read_cached(where, name, None, asked), None
    train = read_cached(where, name, ["train"], asked, f"{name}, train")
    return train, read_cached(where, name, [held_out], asked, f"{name}, {held_out}")


def cut_pool(pool: ClassPool, held_out: float = 1 / 6) -> tuple[ClassPool, ClassPool]:
    """The first images of each class to train on, the last ones held out, for a data set without splits.

    Raises:
        UserError: a class has one image only.
    """
    if (pool.counts < 2).any():
        name = pool.names[int(pool.counts.argmin())]
        raise UserError(f"Class {name!r} of {pool.source} has one image: there is nothing to hold out. Drop the class.")
    last = np.clip(np.round(pool.counts * held_out).astype(np.int64), 1, pool.counts - 1)
    parts = ((pool.starts, pool.counts - last, "train"), (pool.starts + pool.counts - last, last, "held out"))
    return tuple(  # type: ignore[return-value]
        ClassPool(
            pool.images, starts, counts, pool.names, f"{pool.source}, {words}", f"{pool.fingerprint}/{words}/{held_out:g}"
        )
        for starts, counts, words in parts
    )


def _place(data: DataConfig) -> Path | str:
    """The folder of the data, or the hub name."""
    folder = local_copy(data) or Path(data.name).expanduser()
    if data.name and folder.is_dir():
        return folder
    if not is_hub_name(data.name):
        raise UserError(f"{data.name!r} is no folder and no hub name like owner/data-set. Give one of them.")
    return data.name
