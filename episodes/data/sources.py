"""Any Hugging Face image data set as a ClassPool: a hub name, a local folder of parquet files, or an image folder."""

import os
import re
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from episodes.data.columns import image_column, label_column
from episodes.data.images import LARGEST_OWN_SIZE, decode, look
from episodes.data.pool import ClassPool, grouped
from episodes.errors import UserError, unknown

if TYPE_CHECKING:
    from datasets import Dataset

HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


Ready = tuple[str, "Dataset", np.ndarray]
"""(a split's name, its images as stored, which rows of it to take)"""


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
        if self.channels not in (None, 1, 3):
            raise UserError(f"data.channels must be 1 (grey) or 3 (RGB), not {self.channels}.")


def read(
    where: str, name: str, splits: Sequence[str] | None = None, reading: Reading | None = None, words: str = ""
) -> ClassPool:
    """Reads a Hugging Face data set into one pool. Rows without a label are left out, with a warning.

    Arguments:
        where: a folder, or a hub name.
        name: qualifies the class names: "name/label".
        splits: the data set's splits to pool; None: all.
        words: what to call the pool in messages; empty: its name.

    Raises:
        UserError: nothing can be read there, a column is unknown or unfit, a split is empty or missing, an image is damaged.
    """
    reading = reading or Reading()
    parts = open_splits(where, splits)
    features = next(iter(parts.values())).features
    image, label = image_column(features, reading.image), label_column(features, reading.label)
    rows, labels, names = _labelled(parts, label)
    ready = [(split, _undecoded(part, image), rows[split]) for split, part in parts.items()]
    size, channels = reading.size, reading.channels
    if size is None or channels is None:
        own_size, own_channels = _look(ready, where)
        size, channels = size or own_size, channels or own_channels
    images = chain.from_iterable(_images(*part, where, size, channels) for part in ready)
    return grouped(labels, [f"{name}/{label}" for label in names], images, words or name)


def open_splits(where: str, splits: Sequence[str] | None = None) -> "dict[str, Dataset]":
    """The asked splits (None: all) of the data set in a folder or on the hub."""
    parts = _open_folder(where) if Path(where).expanduser().is_dir() else _open_hub(where)
    for split in splits or ():
        if split not in parts:
            raise unknown(f"split of {where}", split, parts)
    parts = {split: parts[split] for split in splits or parts}
    for split, part in parts.items():
        if not part.num_rows:
            raise _empty(split, where)
    return parts


def _empty(split: str, where: str) -> UserError:
    return UserError(f"Split {split!r} of {where} is empty. Remove it, or put images there.")


def is_hub_name(name: str) -> bool:
    """True for names like "owner/data-set"."""
    return HUB_NAME.fullmatch(name) is not None


def folder_identity(folder: Path) -> list:
    """What tells one state of a folder from another: its place, and the name, bytes and time of each file in it."""
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    return [str(folder.resolve()), *([str(f.relative_to(folder)), f.stat().st_size, f.stat().st_mtime_ns] for f in files)]


def _open_folder(where: str) -> "dict[str, Dataset]":
    from datasets import Dataset, load_dataset, load_from_disk

    folder = Path(where).expanduser()
    saved = (folder / "dataset_dict.json").exists() or (folder / "state.json").exists()
    try:
        parts = load_from_disk(str(folder)) if saved else load_dataset(str(folder))
    except Exception as error:  # the library's own kinds, and those of pyarrow and of the file formats
        if empty := re.search(r"Instruction \"(.+)\" corresponds to no data", str(error)):
            raise _empty(empty[1], where) from error
        raise UserError(
            f"{where} cannot be read as a Hugging Face data set ({_cause(error)}). "
            "It should hold parquet files, or a sub-folder of images for each class."
        ) from error
    return {"train": parts} if isinstance(parts, Dataset) else dict(parts)


def _open_hub(where: str) -> "dict[str, Dataset]":
    if not is_hub_name(where):
        raise UserError(f"{where} does not exist. Give the path of a folder, or a hub name like owner/data-set.")
    from datasets import load_dataset

    _check_hub(where)
    try:
        return dict(load_dataset(where))
    except Exception as error:
        raise UserError(
            f"There is no folder {where}, and the hub's data set of that name cannot be loaded ({_cause(error)}). "
            "Check the name and the network, or give a local copy with --data.path (of a stream --stream.data.path)."
        ) from error


def _check_hub(where: str) -> None:
    """Asks the hub for the data set, once and briefly: the loading itself would try for half a minute."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled, RepositoryNotFoundError

    try:
        HfApi().dataset_info(where, timeout=10)
    except OfflineModeIsEnabled:
        return  # an earlier download will do, where there is one
    except RepositoryNotFoundError as error:
        raise UserError(
            f"There is no folder {where}, and no public data set of that name on the hub. Check the name."
        ) from error
    except HfHubHTTPError as error:
        raise UserError(f"The hub refuses {where}: {_cause(error)}.") from error
    except Exception as error:  # whatever the HTTP client raises
        raise UserError(
            f"There is no folder {where}, and the hub cannot be reached ({_cause(error)}). "
            "Check the network, give a local copy with --data.path (of a stream --stream.data.path), or set HF_HUB_OFFLINE=1 "
            "to use what was downloaded before."
        ) from error


def _labelled(parts: "dict[str, Dataset]", column: str) -> tuple[dict[str, np.ndarray], np.ndarray, list[str]]:
    """(the labelled rows of each split, the class (I,) of each of them in order, the classes' names)."""
    rows, values = {}, []
    for split, part in parts.items():
        labels = np.array(part.select_columns([column]).with_format("arrow")[:][column].to_pylist(), dtype=object)
        lowest = 0 if hasattr(part.features[column], "int2str") else None  # a ClassLabel of -1 stands for "not published"
        given = np.array([label is not None and (lowest is None or label >= lowest) for label in labels])
        rows[split] = np.flatnonzero(given)
        values.extend(labels[given])
        if not given.all():
            left_out = int((~given).sum())
            warnings.warn(f"{left_out} rows of split {split!r} have no label in {column!r} and are left out", stacklevel=3)
    classes = sorted(set(values))
    code = {label: i for i, label in enumerate(classes)}
    to_name = getattr(next(iter(parts.values())).features[column], "int2str", str)
    return rows, np.array([code[value] for value in values], dtype=np.int64), [to_name(label) for label in classes]


def _undecoded(part: "Dataset", column: str) -> "Dataset":
    """The image column alone, holding {"bytes": ..., "path": ...}: we decode them, so that a damaged one can be named."""
    from datasets import Image

    try:
        return part.select_columns([column]).cast_column(column, Image(decode=False))
    except Exception as error:
        raise UserError(
            f"Image column {column!r} holds {part.features[column]}, no images. Choose another with --data.image."
        ) from error


def _look(ready: list[Ready], where: str, first: int = 16) -> tuple[int, int]:
    """(size, channels) from the first images of each split."""
    seen = []
    for split, part, rows in ready:
        for row in rows[:first]:
            with _Naming(where, split, row):
                seen.append(look(_bytes(*part[int(row)].values())))
    channels, sides = zip(*seen, strict=True) if seen else ((1,), (LARGEST_OWN_SIZE,))
    return min(sides[0], LARGEST_OWN_SIZE), max(channels)


def _images(split: str, part: "Dataset", rows: np.ndarray, where: str, size: int, channels: int) -> Iterator[np.ndarray]:
    """The images (C, size, size) of some rows, decoded by a few threads (Pillow lets go of the interpreter's lock)."""

    def decoded(row: int, stored: dict) -> np.ndarray:
        with _Naming(where, split, row):
            return decode(_bytes(stored), size, channels)

    part = part if len(rows) == len(part) else part.select(rows)
    batch = 256
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as threads:
        for first, stored in enumerate(part.iter(batch)):
            yield from threads.map(decoded, rows[first * batch :], *stored.values())


def _bytes(stored: dict | None) -> bytes:
    if stored is None:
        raise ValueError("there is no image")
    return stored["bytes"] if stored["bytes"] is not None else Path(stored["path"]).read_bytes()


class _Naming:
    """Turns whatever goes wrong with an image into a `UserError` that names its row."""

    def __init__(self, where: str, split: str, row: int):
        self.place = f"row {row} of split {split!r} of {where}"

    def __enter__(self) -> None: ...

    def __exit__(self, kind, error, trace) -> None:
        if isinstance(error, Exception):
            raise UserError(f"The image in {self.place} cannot be decoded ({_cause(error)}). Repair or remove it.") from error


def _cause(error: BaseException) -> str:
    """The first line of the error that started it."""
    error = error.__cause__ or error
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
