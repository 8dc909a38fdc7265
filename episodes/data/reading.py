"""Images as they are stored, wherever they lie, and how they are decoded."""

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import NamedTuple

import numpy as np

from episodes.data.identity import identity
from episodes.data.images import LARGEST_OWN_SIZE, decode, look
from episodes.errors import UserError

LARGEST_SIZE = 1024
"""Side in pixels beyond which no data set is read: a pool keeps all its images decoded, and an episode has hundreds."""


@dataclass(frozen=True)
class Reading:
    """How the rows of a data set become images; None: found out from the data."""

    image: str | None = None
    """Image column; None: the only one."""
    label: str | None = None
    """Label column; None: the only `ClassLabel` column, else the only integer or text column with a name like "label"."""
    size: int | None = None
    """Side in pixels; None: the first image's longer side, at most 64."""
    channels: int | None = None
    """1 (grey) or 3 (RGB); None: 1 where the first images are grey."""

    def __post_init__(self) -> None:
        if self.size is not None and self.size < 1:
            raise UserError(f"data.size must be at least 1 pixel, not {self.size}.")
        if self.size is not None and self.size > LARGEST_SIZE:
            raise UserError(
                f"data.size must be at most {LARGEST_SIZE} pixels, not {self.size}: all images of a data set are kept decoded "
                f"at that size, and one of {LARGEST_SIZE} x {LARGEST_SIZE} in colour takes {3 * LARGEST_SIZE**2 / 1e6:.0f} MB."
            )
        if self.channels not in (None, 1, 3):
            raise UserError(f"data.channels must be 1 (grey) or 3 (RGB), not {self.channels}.")


StoredImage = tuple[str, dict | None]
"""(where an image lies, in words; {"bytes": what is stored, or None, "path": its file}, or None where there is no image)"""


class Stored(NamedTuple):
    """Some splits of a data set, before anything is decoded."""

    labels: np.ndarray
    """(I,) int64, the class of each image, one split after another."""
    names: list[str]
    """The labels of class 0, 1, ... in words."""
    splits: list[Callable[[int | None], Iterator[StoredImage]]]
    """The images of each split, or the first few of them."""


def found_shape(stored: Stored, first: int = 16) -> tuple[int, int]:
    """(size, channels) by the first images of each split: the side of the very first, at most 64; 3 where one has colour."""
    seen = []
    for images in stored.splits:
        for place, image in images(first):
            with _Naming(place):
                seen.append(look(_bytes(image)))
    channels, sides = zip(*seen, strict=True) if seen else ((1,), (LARGEST_OWN_SIZE,))
    return min(sides[0], LARGEST_OWN_SIZE), max(channels)


def decoded(stored: Stored, size: int, channels: int, batch: int = 256) -> Iterator[tuple[np.ndarray, int]]:
    """(the image (C, size, size), its id) of each, by a few threads: Pillow lets go of the interpreter's lock."""

    def one(where: StoredImage) -> tuple[np.ndarray, int]:
        place, image = where
        with _Naming(place):
            raw = _bytes(image)
            return decode(raw, size, channels), identity(raw)

    images = chain.from_iterable(split(None) for split in stored.splits)
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as threads:
        while some := list(islice(images, batch)):
            yield from threads.map(one, some)


def cause(error: BaseException) -> str:
    """The first line of the error that started it."""
    error = error.__cause__ or error
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")


def _bytes(stored: dict | None) -> bytes:
    if stored is None:
        raise ValueError("there is no image")
    return stored["bytes"] if stored["bytes"] is not None else Path(stored["path"]).read_bytes()


class _Naming:
    """Turns whatever goes wrong with an image into a `UserError` that says where it lies."""

    def __init__(self, place: str):
        self.place = place

    def __enter__(self) -> None: ...

    def __exit__(self, kind, error, trace) -> None:
        if isinstance(error, OSError) and error.errno is not None:
            raise UserError(f"{self.place} cannot be read ({error.strerror}). Check that it may be read.") from error
        if isinstance(error, Exception):
            raise UserError(f"{self.place} cannot be decoded ({cause(error)}). Repair or remove it.") from error
