"""The images of a stream: those that it is learnt from, and those held out."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from episodes.data.config import DataConfig, complete, local_copy, read_cached, reading_of
from episodes.data.features import with_features
from episodes.data.glyphs import glyph_pools
from episodes.data.hf import is_hub_name
from episodes.data.leaving_out import left_in
from episodes.data.places import name_of, readable, user_path
from episodes.data.pool import ClassPool
from episodes.data.sources import splits_of, with_columns
from episodes.errors import UserError

HELD_OUT_SPLITS = ("validation", "valid", "val", "dev", "test", "testing")
"""The split of a data set that is held out: the first of these that it has, beside `train` or `training`."""


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
TINY_IMAGENET_64 = HubImages("zh-plus/tiny-imagenet", 64, 3)
CIFAR100 = HubImages("uoft-cs/cifar100", 32, 3, "img", "fine_label")
GLYPHS = HubImages("glyphs", 28, 1)
"""Letters from the typefaces that come with matplotlib: no data set of the hub, and nothing to download."""


def halves(data: DataConfig, own: HubImages, most: int | None = None) -> tuple[ClassPool, ClassPool]:
    """The images to learn from and those held out, of the same classes; a data set without such a split is cut.

    Arguments:
        data: the data set; the options that it leaves open are `own`'s where it is the same data set.
        most: images of each class to learn from, the first of the data set; None: all.

    Raises:
        UserError: there is no such data set, it cannot be read, or a class has one image only.
    """
    train, held_out = published_halves(data, own, most)
    if held_out is not None:
        return train, held_out
    train, held_out = cut_pool(train)
    return train.first(most), held_out


def published_halves(data: DataConfig, own: HubImages, most: int | None = None) -> tuple[ClassPool, ClassPool | None]:
    """As `halves`, with None and all images together where the data set has no split to hold out."""
    for option in ("source", "also", "target"):
        if getattr(data, option):
            raise UserError(f"--stream.data.{option} means nothing for a stream; leave it out.")
    if data.split is not None:
        raise UserError("--stream.data.split means nothing for a stream, which has all classes; leave it out.")
    with readable(data.path or data.name):
        name, pools = _read(data, own)
    if len(pools) > 1:
        pools[0] = pools[0].first(most)  # before features are made of them
    pools = left_in([with_features(pool, data) for pool in pools], data, name)
    return pools[0], pools[1] if len(pools) > 1 else None


def _read(data: DataConfig, own: HubImages) -> tuple[str, list[ClassPool]]:
    """What qualifies the class names, and the pool of all images, or those to learn from and those held out."""
    is_own = data.name == own.hub
    asked = reading_of(data, own.size, own.channels) if is_own else reading_of(data, None, None)
    if data.name == "glyphs":
        return "glyphs", [glyph_pools(asked.size or 28)["train"]]
    where = _place(data)
    if is_own:
        asked = with_columns(asked, str(where), own.image, own.label)
    parts = splits_of(str(where), asked)
    own_folder = data.path is None and isinstance(where, Path)
    name = name_of(data.name) if own_folder or not is_hub_name(data.name) else data.name
    train = next((split for split in ("train", "training") if split in parts), None)
    held_out = None if train is None else next((split for split in HELD_OUT_SPLITS if split in parts), None)
    if train is None or held_out is None:
        return name, [read_cached(where, name, None, asked)]
    asked = complete(where, [train], asked)  # the held-out images are read as those to learn from
    return name, [read_cached(where, name, [split], asked, f"{name}, {split}") for split in (train, held_out)]


def cut_pool(pool: ClassPool, held_out: float = 1 / 6) -> tuple[ClassPool, ClassPool]:
    """The first images of each class to train on, the last ones held out, for a data set without splits.

    Raises:
        UserError: a class has one image only.
    """
    if (pool.counts < 2).any():
        small = [repr(name) for name, count in zip(pool.names, pool.counts, strict=True) if count < 2]
        raise UserError(
            f"{pool.source}: {', '.join(small)} have one image each: there is nothing to hold out. "
            "Leave out such classes: --data.fewest 2, of a stream --stream.data.fewest 2."
        )
    last = np.clip(np.round(pool.counts * held_out).astype(np.int64), 1, pool.counts - 1)
    parts = ((pool.starts, pool.counts - last, "train"), (pool.starts + pool.counts - last, last, "held out"))
    return tuple(  # type: ignore[return-value]
        replace(
            pool,
            starts=starts,
            counts=counts,
            source=f"{pool.source}, {words}",
            fingerprint=f"{pool.fingerprint}/{words}/{held_out:g}",
        )
        for starts, counts, words in parts
    )


def _place(data: DataConfig) -> Path | str:
    """The folder of the data, or the hub name."""
    folder = local_copy(data) or user_path(data.name)
    if data.name and folder.exists():
        return folder
    if not is_hub_name(data.name):
        raise UserError(f"{data.name!r} is no folder and no hub name like owner/data-set. Give one of them.")
    return data.name
