"""What the `datasets` library opens: a hub name, or a folder or file of parquet."""

import re
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from episodes.data.columns import image_column, label_column
from episodes.data.places import cache_folder, user_path
from episodes.data.reading import Reading, Stored, StoredImage, cause
from episodes.errors import UserError, note, unknown

if TYPE_CHECKING:
    from datasets import Dataset

HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


def is_hub_name(name: str) -> bool:
    """True for names like "owner/data-set"."""
    return HUB_NAME.fullmatch(name) is not None


def stored_rows(where: str, splits: Sequence[str] | None, reading: Reading) -> Stored:
    """The rows of some splits (None: all) that have a label; others are left out, with a warning.

    Raises:
        UserError: nothing can be opened there, a column is unknown or unfit, a split is empty or missing.
    """
    parts = open_splits(where, splits)
    features = next(iter(parts.values())).features
    image, label = image_column(features, reading.image), label_column(features, reading.label)
    rows, labels, names = _labelled(parts, label)
    ready = {split: _undecoded(part, image) for split, part in parts.items()}
    return Stored(labels, names, [partial(_images, where, split, ready[split], rows[split]) for split in parts])


def open_splits(where: str, splits: Sequence[str] | None = None) -> "dict[str, Dataset]":
    """The asked splits (None: all) of the data set in a folder, in a parquet file or on the hub."""
    parts = _open_folder(where) if user_path(where).exists() else _open_hub(where)
    for split in splits or ():
        if split not in parts:
            raise unknown(f"split of {where}", split, parts)
    parts = {split: parts[split] for split in splits or parts}
    for split, part in parts.items():
        if not part.num_rows:
            raise empty_split(split, where)
    return parts


def empty_split(split: str, where: str) -> UserError:
    return UserError(f"Split {split!r} of {where} is empty. Remove it, or put images there.")


def _open_folder(where: str) -> "dict[str, Dataset]":
    from datasets import Dataset, load_dataset, load_from_disk

    folder = user_path(where)
    try:
        if folder.is_file():
            parts = load_dataset("parquet", data_files={"train": str(folder)}, cache_dir=_kept_in())
        else:
            parts = load_from_disk(str(folder)) if is_saved(folder) else load_dataset(str(folder), cache_dir=_kept_in())
    except Exception as error:  # the library's own kinds, and those of pyarrow and of the file formats
        if empty := re.search(r"Instruction \"(.+)\" corresponds to no data", str(error)):
            raise empty_split(empty[1], where) from error
        raise UserError(
            f"{where} cannot be read as a Hugging Face data set ({cause(error)}). "
            "It should be or hold parquet files, or hold a sub-folder of images for each class."
        ) from error
    return {"train": parts} if isinstance(parts, Dataset) else dict(parts)


def is_saved(folder: Path) -> bool:
    """Whether a folder is what `Dataset.save_to_disk` wrote."""
    return (folder / "dataset_dict.json").exists() or (folder / "state.json").exists()


def _open_hub(where: str) -> "dict[str, Dataset]":
    if not is_hub_name(where):
        raise UserError(f"{where} does not exist. Give the path of a folder or file, or a hub name like owner/data-set.")
    from datasets import load_dataset

    _check_hub(where)
    try:
        return dict(load_dataset(where, cache_dir=_kept_in()))
    except Exception as error:
        raise UserError(
            f"There is no folder {where}, and the hub's data set of that name cannot be loaded ({cause(error)}). "
            "Check the name and the network, or give a local copy with --data.path (of a stream --stream.data.path)."
        ) from error


def _kept_in() -> str | None:
    """Where the library keeps what it has read; None: in its usual place. Without a home folder that is none."""
    from datasets import config

    return str(cache_folder() / "datasets") if str(config.HF_DATASETS_CACHE).startswith("~") else None


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
        raise UserError(f"The hub refuses {where}: {cause(error)}.") from error
    except Exception as error:  # whatever the HTTP client raises
        raise UserError(
            f"There is no folder {where}, and the hub cannot be reached ({cause(error)}). "
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
            note(f"{left_out} rows of split {split!r} have no label in {column!r} and are left out.")
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


def _images(where: str, split: str, part: "Dataset", rows: np.ndarray, first: int | None = None) -> Iterator[StoredImage]:
    """The stored images of some rows, or of the first few of these."""
    if first is not None:
        rows = rows[:first]
    part = part if len(rows) == len(part) else part.select(rows)
    images = (image for some in part.iter(256) for image in next(iter(some.values())))
    for row, image in zip(rows, images, strict=True):
        named = image.get("path") if image else None
        yield f"The image {f'{named} ' if named else ''}in row {row} of split {split!r} of {where}", image
