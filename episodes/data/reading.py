"""Images as they are stored, wherever they lie, and how they are decoded."""

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from episodes.data.identity import identity
from episodes.data.images import Ground, decode, is_blank
from episodes.errors import UserError, note

LARGEST_SIZE = 1024
"""Side in pixels beyond which no data set is read: a pool keeps all its images decoded, and an episode has hundreds."""
LISTED = 5
"""Damaged images that an error lists."""


@dataclass(frozen=True)
class Reading:
    """How the rows of a data set become images; None: found out from the data (`episodes.data.looking`)."""

    image: str | None = None
    """Image column; None: the only one."""
    label: str | None = None
    """Label column; None: the only `ClassLabel` column, else the only integer or text column with a name like "label"."""
    size: int | None = None
    """Side in pixels; None: the median of the images' longer sides, at most 64."""
    channels: int | None = None
    """1 (grey) or 3 (RGB); None: 3 where an image has colour."""
    configuration: str | None = None
    """Which configuration of a data set that has several."""
    skip_damaged: bool = False
    """Leave out images that cannot be decoded, rather than refuse them."""
    split: str | None = None
    """The column that says which meta-split a class is for: neither an input nor a label."""
    targets: tuple[str, ...] = ()
    """Columns of numbers that are to be told of each row in regression."""
    levels: tuple[float, float] | None = None
    """The pixel values that become 0 and 255, where the images do not say; None: by those that they have."""
    ground: Ground | None = None
    """What is seen through transparent pixels; None: the images have not been looked at."""
    seen: str | None = None
    """Width and height of the images that were looked at, in words."""

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
        if self.levels is not None:  # JSON makes lists
            object.__setattr__(self, "levels", tuple(self.levels))
        object.__setattr__(self, "targets", tuple(self.targets))

    @property
    def apart(self) -> tuple[str, ...]:
        """The columns that are neither inputs nor labels."""
        return (*self.targets, *(() if self.split is None else (self.split,)))

    def key(self) -> dict[str, Any]:
        """What of it a pool depends on, as JSON values. What later versions have added is there where it is asked for alone, so
        that pools of before are still found."""
        return {name: value for name, value in vars(self).items() if value or name not in ("split", "targets")}


StoredImage = tuple[str, dict | np.ndarray | None]
"""(where an image lies, in words; {"bytes": what is stored, or None, "path": its file}, or its pixels, or None where there is
no image)"""


class Stored(NamedTuple):
    """Some splits of a data set, before anything is decoded."""

    labels: np.ndarray
    """(I,) int64, the class of each image, one split after another."""
    names: list[str]
    """The labels of class 0, 1, ... in words."""
    at: Callable[[np.ndarray], Iterator[StoredImage]]
    """The images at some places (N,) of `labels`, which ascend."""
    vectors: np.ndarray | None = None
    """(I, F) float32: what is stored where it is no images."""
    left_out: int = 0
    """Files or rows that are left out before anything is decoded; a note has said which."""
    targets: np.ndarray | None = None
    """(I, Y) float32: what is to be told of each in regression."""


def decoded(stored: Stored, reading: Reading, where: str, batch: int = 256) -> Iterator[tuple[np.ndarray, int] | None]:
    """(the image (C, size, size), its id) of each, by a few threads: Pillow lets go of the interpreter's lock.

    What cannot be decoded is None; after the last image it is an error, or with `reading.skip_damaged` a note.

    Arguments:
        reading: with nothing that is still to be found out.
        where: what to call the data set in messages.

    Raises:
        UserError: images are damaged, or there is nothing to be seen on any.
    """
    images, total = stored.at(np.arange(len(stored.labels))), len(stored.labels)
    damaged, blank = list[str](), list[str]()
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as threads:
        while some := list(islice(images, batch)):
            for (place, _), got in zip(some, threads.map(lambda one: _decoded(one[1], reading), some), strict=True):
                if isinstance(got, str):
                    damaged.append(f"{place} ({got})")
                    yield None
                    continue
                if is_blank(got[0]) and reading.size != 1:
                    blank.append(place)
                yield got
    _say_damaged(damaged, total, where, reading.skip_damaged)
    _say_blank(blank, total - len(damaged), where)


def bytes_of(stored: dict | np.ndarray | None) -> bytes | np.ndarray:
    """What is stored of an image: its file, or its pixels.

    Raises:
        ValueError: there is none.
        OSError: its file cannot be read.
    """
    if stored is None:
        raise ValueError("there is no image")
    if isinstance(stored, np.ndarray):
        return stored
    return stored["bytes"] if stored["bytes"] is not None else Path(stored["path"]).read_bytes()


def cause(error: BaseException) -> str:
    """The first line of the error that started it."""
    return first_line(error.__cause__ or error)


def first_line(error: BaseException) -> str:
    """What an error says, in one line."""
    words = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return (words.strip() or type(error).__name__).splitlines()[0].rstrip(".")


def _decoded(image: dict | np.ndarray | None, reading: Reading) -> tuple[np.ndarray, int] | str:
    """The image and its id, or what is wrong with it."""
    assert reading.size is not None and reading.channels is not None
    try:
        raw = bytes_of(image)
        return decode(raw, reading.size, reading.channels, reading.levels, reading.ground or "white"), identity(raw)
    except MemoryError:
        raise
    except Exception as error:  # Pillow raises many kinds
        return first_line(error)


def _say_damaged(damaged: list[str], total: int, where: str, skip: bool) -> None:
    if not damaged:
        return
    more = f" and {len(damaged) - LISTED} more" if len(damaged) > LISTED else ""
    words = f"{len(damaged)} of {total} images of {where} cannot be read"
    listed = f"{', '.join(damaged[:LISTED])}{more}"
    if not skip or len(damaged) == total:
        raise UserError(
            f"{words}: {listed}. Repair or remove them, or leave them out with --data.skip-damaged (of a stream "
            "--stream.data.skip-damaged)."
        )
    note(f"{words} and are left out, as asked: {listed}.")


def _say_blank(blank: list[str], total: int, where: str) -> None:
    if blank and len(blank) == total:
        raise UserError(
            f"There is nothing to be seen on any of the {total} images of {where}: all pixels of each have one value, once "
            "they are read. Are these the images? Another size or number of channels may help: --data.size, --data.channels."
        )
    if blank:
        note(f"{where}: there is nothing to be seen on {len(blank)} of {total} images, such as {blank[0]}; they are kept.")
