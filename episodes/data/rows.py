"""The rows of what the `datasets` library opens, as images or vectors and their labels."""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from episodes.data.columns import (
    image_column,
    kind_of,
    label_column,
    labelled_rows,
    number_columns,
    stacked_numbers,
    vectors_of,
    with_targets,
)
from episodes.data.hf import open_splits
from episodes.data.reading import Reading, Stored, StoredImage
from episodes.errors import UserError, listed, note

if TYPE_CHECKING:
    from datasets import Dataset


def stored_rows(where: str, splits: Sequence[str] | None, reading: Reading, words: str = "") -> Stored:
    """The rows of some splits (None: all) that have a label; others are left out, with a warning.

    Arguments:
        words: what to call the data set in messages; empty: `where`.

    Raises:
        UserError: nothing can be opened there, a column is unknown or unfit, a split is empty or missing.
    """
    return stored_parts(open_splits(where, splits, reading.configuration, words), words or where, reading)


def stored_parts(parts: "dict[str, Dataset]", where: str, reading: Reading) -> Stored:
    """As `stored_rows`, of splits that are open.

    Arguments:
        where: what to call the data set in messages.
    """
    features = features_of(parts, reading)
    label = label_column(features, reading.label)
    numbers = number_columns(features, label) if reading.image is None else []
    image = numbers[0] if numbers else image_column(features, reading.image)
    rows, labels, names = labelled_rows(parts, label, where)
    told = None
    if reading.targets:
        rows, labels, told = with_targets(parts, rows, labels, reading.targets, where)
    out = sum(part.num_rows for part in parts.values()) - len(labels)
    parts = {split: part for split, part in parts.items() if len(rows[split])}
    for split, part in parts.items():
        if image not in part.features:
            raise UserError(f"Split {split!r} of {where} has no column {image!r}. Choose another column with --data.image.")
    if numbers:
        other = [column for column in features if column not in (*numbers, label)]
        if other:
            note(f"{where}: columns that are no numbers are left out: {listed(other)}.")
        return Stored(labels, names, _no_images, stacked_numbers(parts, rows, numbers, where), out, told)
    if kind_of(features[image]) == "vector":
        return Stored(labels, names, _no_images, vectors_of(parts, rows, image, where), out, told)
    starts = np.cumsum([0, *(len(rows[split]) for split in parts)])
    ready = {split: _undecoded(part, image) for split, part in parts.items()}
    images = [partial(_images, split, ready[split]) for split in parts]

    def at(places: np.ndarray) -> Iterator[StoredImage]:
        for i, (split, own) in enumerate(zip(parts, images, strict=True)):
            inside = places[(places >= starts[i]) & (places < starts[i + 1])] - starts[i]
            yield from own(rows[split][inside])

    return Stored(labels, names, at, left_out=out, targets=told)


def features_of(parts: "dict[str, Dataset]", reading: Reading) -> dict[str, Any]:
    """What each column of some splits holds, but for those that are neither inputs nor labels."""
    every = {name: kind for part in reversed(parts.values()) for name, kind in part.features.items()}
    return {name: kind for name, kind in every.items() if name not in reading.apart}


def _undecoded(part: "Dataset", column: str) -> "Dataset":
    """The image column alone, holding {"bytes": ..., "path": ...}: we decode them, so that a damaged one can be named."""
    from datasets import Image

    part = part.select_columns([column])
    if kind_of(part.features[column]) == "pixels":
        return part.with_format("numpy")
    try:
        return part.cast_column(column, Image(decode=False))
    except Exception as error:
        raise UserError(
            f"Image column {column!r} holds {part.features[column]}, no images. Choose another with --data.image."
        ) from error


def _images(split: str, part: "Dataset", rows: np.ndarray) -> Iterator[StoredImage]:
    """The stored images of some rows."""
    part = part if len(rows) == len(part) else part.select(rows)
    images = (image for some in part.iter(256) for image in next(iter(some.values())))
    for row, image in zip(rows, images, strict=True):
        named = image.get("path") if isinstance(image, dict) else None
        yield f"{f'{named} in ' if named else ''}row {row} of split {split!r}", image


def _no_images(places: np.ndarray) -> Iterator[StoredImage]:
    return iter(())
